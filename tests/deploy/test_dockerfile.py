"""The Dockerfile as data: its rules, what it copies, who it runs as, what it tells of itself.

Not held here: that its steps work (`test_image`), that everything is installed by hash (`tests/security`).
"""

from __future__ import annotations

import re
import subprocess
from fnmatch import fnmatch

import pytest

from tests.deploy.dockerfile import Stage, argv, instructions, stages
from tests.deploy.image import DOCKERFILE, ROOT
from tests.deploy.manifests import tool

IMAGES = ("gateway", "sandbox")


@pytest.fixture(scope="module")
def known() -> dict[str, Stage]:
    return stages(DOCKERFILE.read_text("utf-8"))


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run([tool("hadolint"), str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_a_dockerfile_is_read_as_docker_reads_it() -> None:
    text = 'ARG A=b\n# no\nFROM ${A} AS x\nRUN one \\\n # no\n  && ${A}\nCOPY ${A} c\nCMD ["d", "e f"]\n'
    found = stages(text)["x"]
    assert (found.base, found.steps[0].text, found.steps[1].text) == ("b", "one && ${A}", "b c")
    assert argv(found.last("CMD") or "") == ["d", "e f"]
    assert len(instructions(text)) == 5


def test_it_copies_what_exists_and_what_is_sent_to_the_builder(known: dict[str, Stage]) -> None:
    rules = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    sent = [rule[1:] for rule in rules if rule.startswith("!")]
    assert "*" in rules
    texts = [step.text for stage in known.values() for step in stage.steps if step.word == "COPY"]
    copied = {one for text in texts if not text.startswith("--from=") for one in text.split()[:-1]}
    assert copied
    for one in copied:
        assert (ROOT / one).exists(), one
        assert any(fnmatch(one, rule) for rule in sent), f"{one} is not sent to the builder"
    assert {rule for rule in sent if "*" not in rule} <= copied, "something is sent and never copied"


def test_stages_copy_from_earlier_ones(known: dict[str, Stage]) -> None:
    seen: set[str] = set()
    for stage in known.values():
        for step in stage.steps:
            if step.text.startswith("--from="):
                assert step.text.removeprefix("--from=").split()[0] in seen
        seen.add(stage.name)
    assert list(known)[-1] == "gateway", "the default is the last"


def test_another_base_and_the_extra_are_arguments() -> None:
    heads = [step for step in instructions(DOCKERFILE.read_text("utf-8")) if step.word in {"ARG", "FROM"}]
    assert [step.text.partition("=")[0] for step in heads[:2]] == ["PYTHON", "REQUIREMENTS"]
    origins = {step.text.split()[0] for step in heads if step.word == "FROM"}
    assert origins == {"${PYTHON}", "base"}
    assert "requirements-tracing.txt" in DOCKERFILE.read_text("utf-8")
    assert (ROOT / "requirements-tracing.txt").is_file()


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_says_how_it_is_run(known: dict[str, Stage], name: str) -> None:
    base, stage = known["base"], known[name]
    assert (base.last("USER"), base.last("WORKDIR")) == ("10001:10001", "/var/lib/reelgate")
    assert (base.last("ENTRYPOINT"), base.last("STOPSIGNAL")) == ('["reelgate"]', "SIGTERM")
    assert "org.opencontainers.image.licenses" in (base.last("LABEL") or "")
    health = argv((stage.last("HEALTHCHECK") or "").partition("CMD ")[2])
    assert health[:3] == ["python", "-m", "gateway.healthcheck"], "by the program itself"
    words = argv(stage.last("CMD") or "")
    assert words[0] == {"gateway": "serve"}.get(name, name)
    place = words[words.index("--config") + 1] if "--config" in words else None
    assert place is None or place == health[health.index("--config") + 1]


def test_the_gateway_listens_where_it_is_exposed(known: dict[str, Stage]) -> None:
    assert re.search(r"listen = \"0\.0\.0\.0:8080\"", (ROOT / "deploy/compose.toml").read_text("utf-8"))
    assert known["gateway"].last("EXPOSE") == "8080"
    assert (known["sandbox"].last("EXPOSE") or "-") in (known["sandbox"].last("CMD") or "")
