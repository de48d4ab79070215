"""The outage drill of `deploy/drill.md`, command by command, with a real Prometheus: nothing is lost.

What the document shows is compared with what its commands say; then every video, charge, file and alert is
looked at. Not held here: what else the runbooks ask (`test_alerts`), each alert by itself (`test_fired`).
"""

from __future__ import annotations

import hashlib
import re
from decimal import Decimal
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import pytest
import yaml

from tests.dashboards.prometheus import DEPLOY, RULES, Json
from tests.dashboards.test_alerts import runbooks
from tests.docs.blocks import Block, blocks
from tests.docs.places import needs
from tests.docs.shell import Ran, elsewhere, run
from tests.docs.shown import check

DRILL: Final = "deploy/drill.md"
NEEDED: Final = needs("prometheus", "promtool", "curl")
ORDERED: Final = 10
ALERTS: Final = ("ReelgateProviderAway", "ReelgateSubmissionsUnknown")
INTERVAL: Final = "500ms"
QUICK_FOR: Final = "1s"
# Before all is put away: what callers, vendors, the disk and Prometheus have of it.
_KEPT: Final = """
ask() { command curl -s -H "Authorization: Bearer $REELGATE_KEY" "$REELGATE_URL/v1/videos$1"; }
ask '?limit=100' > "$KEPT/videos.json"
for VIDEO_ID in $(grep -o '"id":"video_[^"]*' "$KEPT/videos.json" | cut -c7-); do
  ask "/$VIDEO_ID/timeline" > "$KEPT/$VIDEO_ID.json"
done
command curl -s http://127.0.0.1:8090/admin/ledger > "$KEPT/ledger.json"
command curl -s http://127.0.0.1:9090/api/v1/rules > "$KEPT/rules.json"
command curl -s http://127.0.0.1:9090/api/v1/query \\
  --data-urlencode 'query=max_over_time(ALERTS{alertstate="firing"}[1h])' > "$KEPT/fired.json"
cp -r videos "$KEPT/videos"
"""


class Left(NamedTuple):
    """What the drill left: what was said on the way, and a copy of all that was kept, in `folder`."""

    ran: list[Ran]
    folder: Path

    def read(self, name: str) -> Json:
        """One of the answers that were kept."""
        return msgspec.json.decode((self.folder / name).read_bytes(), type=Json)

    @property
    def videos(self) -> list[Json]:
        """Every video, newest first."""
        found: list[Json] = self.read("videos.json")["data"]
        return found

    def timeline(self, video: Json) -> list[str]:
        """The types of a video's events."""
        return [event["type"] for event in self.read(f"{video['id']}.json")["data"]]


def commands() -> list[Block]:
    return [block for block in blocks(DRILL) if block.kind == "sh"]


def quick(folder: Path, port: str) -> Path:
    """Prometheus' files as they are deployed; it is told sooner of the two alerts, and of another port."""
    folder.mkdir()
    rules = yaml.safe_load(RULES.read_text("utf-8"))
    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        if rule["alert"] in ALERTS:
            rule["for"] = QUICK_FOR
    (folder / "alerts.yml").write_text(yaml.safe_dump(rules), "utf-8")
    configuration = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text("utf-8"))
    configuration["global"] |= {"scrape_interval": INTERVAL, "evaluation_interval": INTERVAL}
    text = yaml.safe_dump(configuration).replace("gateway:8080", f"gateway:{port}")
    (folder / "prometheus.yml").write_text(text, "utf-8")
    return folder


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Left:
    folder = tmp_path_factory.mktemp("drill")
    kept = folder / "kept"
    kept.mkdir()
    *drill, end = commands()
    look = Block(DRILL, "before it is put away", 0, "sh", _KEPT, follows=False)
    ports = elsewhere()
    deployed = quick(folder / "prometheus", ports["8080"])
    steps = [
        block._replace(text=block.text.replace("../deploy/prometheus", str(deployed)))
        for block in (*drill, look, end)
    ]
    return Left(run(steps, folder, ports, KEPT=str(kept)), kept)


@NEEDED
@pytest.mark.long
def test_each_step_says_what_the_document_shows(left: Left) -> None:
    shown = [block for block in blocks(DRILL) if block.kind == "text"]
    assert check(left.ran, blocks(DRILL)) == len(shown) > 5


@NEEDED
@pytest.mark.long
def test_every_video_that_was_promised_is_completed_stored_and_its_file_whole(left: Left) -> None:
    assert len(left.videos) == ORDERED
    files = {hashlib.sha256(path.read_bytes()).hexdigest() for path in left.folder.glob("videos/**/*.mp4")}
    assert len(files) == ORDERED
    for video in left.videos:
        assert (video["status"], video["stage"], video["charged"]) == ("completed", "stored", "yes"), video
        assert left.timeline(video)[-1] == "stored"
    assert {video["output"]["sha256"] for video in left.videos} == files


@NEEDED
@pytest.mark.long
def test_the_vendors_charged_for_each_video_once(left: Left) -> None:
    entries = left.read("ledger.json")["entries"]
    charged = {entry["vendor_task_id"]: Decimal(entry["amount"]) for entry in entries}
    assert len(charged) == len(entries)
    assert charged == {
        video["vendor_task_id"]: Decimal(video["cost"]["amount"]) / video["attempts"] for video in left.videos
    }
    twice = [video["prompt"] for video in left.videos if video["attempts"] == 2]
    assert twice == ["a lost request"], "which may have been bought each time, for all that our books know"
    assert {entry["prompt"] for entry in entries} == {video["prompt"] for video in left.videos}


@NEEDED
@pytest.mark.long
def test_what_nobody_could_know_was_decided_by_somebody(left: Left) -> None:
    by_prompt = {video["prompt"]: left.timeline(video) for video in left.videos}
    unknown = {prompt for prompt, events in by_prompt.items() if "submission_unknown" in events}
    assert unknown == {"a lost answer", "a lost request"}
    assert "adopted" in by_prompt["a lost answer"]
    assert by_prompt["a lost request"].count("submitting") == 2
    assert "resubmit_allowed" in by_prompt["a lost request"]


@NEEDED
@pytest.mark.long
def test_two_alerts_fired_and_are_over(left: Left) -> None:
    fired = left.read("fired.json")["data"]["result"]
    assert sorted({series["metric"]["alertname"] for series in fired}) == sorted(ALERTS)
    rules = [rule for group in left.read("rules.json")["data"]["groups"] for rule in group["rules"]]
    assert len(rules) > len(ALERTS)
    assert "firing" not in {rule["state"] for rule in rules}


def orders(text: str) -> set[str]:
    """What is said to `reelgate` in a text: verbs and options, without what they are said of."""
    said = re.findall(r"reelgate ((?:videos|providers) [a-z]+)([^|;\n`)]*)", text)
    return {" ".join([verb, *re.findall(r"--[a-z]+", rest)]) for verb, rest in said}


@pytest.mark.parametrize("alert", ALERTS)
def test_the_steps_are_those_of_the_runbook(alert: str) -> None:
    steps = [block.text for block in commands() if block.heading.endswith(alert)]
    looked = {"videos create", "videos watch", "videos get --json", "providers list"}  # no operator's step
    followed = orders("\n".join(steps)) - looked
    assert followed
    assert followed <= orders(runbooks()[alert])
