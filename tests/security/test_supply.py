"""The supply chain: the audit bites and is honest where it cannot ask, the bill of materials, the images.

Not held here: that everything is locked by hash (`tests/test_project.py`), installing (`Makefile`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.handling import handling
from tests.serving import free_port
from tests.supply import Dependency, Finding, Report, audit, judged, sbom
from tests.test_project import pinned

ROOT: Final = Path(__file__).parents[2]
LOCK: Final = f"first==1.0 --hash=sha256:{'0' * 64}\nsecond==2.0 --hash=sha256:{'1' * 64}\n"
KNOWN: Final = {"vulns": [{
    "id": "GHSA-made-up-0000", "details": "made up", "aliases": [], "modified": "2026-01-01T00:00:00Z",
    "affected": [{
        "package": {"ecosystem": "PyPI", "name": "second"},
        "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.1"}]}],
    }],
}]}  # fmt: skip


@contextmanager
def service() -> Iterator[str]:
    """A service that knows one vulnerability, in `second`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            body = json.dumps(KNOWN if asked["package"]["name"] == "second" else {}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with handling(Handler) as url:
        yield f"{url}/v1/query"


def test_a_known_vulnerability_fails_the_audit(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.txt"
    lock.write_text(LOCK, "utf-8")
    with service() as url:
        code, said = audit([lock], [f"--osv-url={url}"])
        assert (code, said.splitlines()[-1]) == (1, "2 distributions audited, 1 known vulnerabilities"), said
        assert "second 2.0: GHSA-made-up-0000, mended in 2.1" in said
        lock.write_text(LOCK.splitlines()[0], "utf-8")
        assert audit([lock], [f"--osv-url={url}"]) == (0, "1 distributions audited, 0 known vulnerabilities")


def test_without_a_network_the_audit_passes_and_says_so(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.txt"
    lock.write_text(LOCK, "utf-8")
    code, said = audit([lock], [f"--osv-url=http://127.0.0.1:{free_port()}/v1/query"])
    assert (code, said.startswith("NOT audited")) == (0, True)


def test_what_could_not_be_asked_for_is_named() -> None:
    found = Dependency("bad", "1", [Finding("CVE-1", ["2"]), Finding("CVE-2")])
    code, said = judged(Report([found, Dependency("odd", skip_reason="not there"), Dependency("good", "1")]))
    assert (code, said.splitlines()) == (1, [
        "bad 1: CVE-1, mended in 2", "bad 1: CVE-2, mended in no version yet",
        "NOT audited, the service does not know them: odd",
        "2 distributions audited, 2 known vulnerabilities",
    ])  # fmt: skip


@pytest.mark.long
def test_the_bill_of_materials_is_the_lock(tmp_path: Path) -> None:
    texts = []
    for name in ("a.json", "b.json"):
        assert sbom(tmp_path / name) == 0
        texts.append((tmp_path / name).read_text("utf-8"))
    assert texts[0] == texts[1]
    bill: dict[str, Any] = json.loads(texts[0])
    assert (bill["bomFormat"], bill["metadata"]["component"]["name"]) == ("CycloneDX", "reelgate")
    listed = {one["name"]: one for one in bill["components"]}
    locked = pinned("requirements.txt")
    assert listed.keys() == locked.keys()
    for name, one in listed.items():
        assert f"=={one['version']}" in locked[name]
        assert one["externalReferences"][0]["hashes"], name


def test_lint_audits_and_a_target_makes_the_bill() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    rules = dict(re.findall(r"^([a-z]+):[^\n]*\n((?:\t[^\n]*\n)+)", makefile, re.MULTILINE))
    assert "tests.supply audit" in rules["audit"]
    assert "tests.supply audit" in rules["lint"]
    assert "tests.supply sbom" in rules["sbom"]


def test_the_images_run_as_nobody_and_write_nowhere_else() -> None:
    stages = re.split(r"^FROM ", (ROOT / "deploy/Dockerfile").read_text("utf-8"), flags=re.MULTILINE)[1:]
    base = next(stage for stage in stages if " AS base" in stage.splitlines()[0])
    assert re.search(r"^USER 10001:10001$", base, re.MULTILINE)
    last = [stage for stage in stages if stage.startswith("base AS ")]
    assert len(last) == 2
    assert not any(re.search(r"^(?:USER|RUN|ADD)\b", stage, re.MULTILINE) for stage in last)
    services = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text("utf-8"))["services"]
    ours = [one for one in services.values() if "build" in one]
    assert len(ours) >= 2
    for one in ours:
        assert one["read_only"] is True
        assert one["cap_drop"] == ["ALL"]
        assert one["security_opt"] == ["no-new-privileges:true"]
