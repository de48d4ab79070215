"""What is installed, and what is known against it: `python -m tests.supply audit` and `... sbom FILE`.

Both read the hash-locked requirements, nothing of the machine. The audit asks OSV's public service through
pip-audit, one question each; where that cannot be reached it says so and passes, because nothing else here
needs a network.
Not held here: the lock itself (`make lock`), what a test expects of it (`tests/test_project.py`).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

ROOT: Final = Path(__file__).parents[1]
LOCKED: Final = (
    "requirements.txt", "requirements-sandbox.txt", "requirements-tracing.txt", "requirements-bootstrap.txt",
)
PATIENCE_SECONDS: Final = 20  # for one answer of the service
LIMIT_SECONDS: Final = 240  # for all of them


class Finding(msgspec.Struct, frozen=True):
    """A known vulnerability; `fix_versions` are those without it."""

    id: str
    fix_versions: list[str] = []


class Dependency(msgspec.Struct, frozen=True):
    """One distribution, and what is known against it; `skip_reason` where it could not be asked for."""

    name: str
    version: str = ""
    vulns: list[Finding] = []
    skip_reason: str = ""


class Report(msgspec.Struct, frozen=True):
    """What pip-audit writes."""

    dependencies: list[Dependency]


def audit(files: Sequence[Path], options: Sequence[str] = ()) -> tuple[int, str]:
    """The exit code (1: something is known against one of them), and what to say. `options` of pip-audit.

    Without a whole report nothing is proven either way: 0, and the words say that it was not audited.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        command = [
            sys.executable, "-m", "pip_audit", "--disable-pip", "--no-deps", "--require-hashes",
            "--vulnerability-service=osv", "--format=json", "--progress-spinner=off",
            f"--timeout={PATIENCE_SECONDS}", f"--output={path}", *options,
            *(f"--requirement={file}" for file in files),
        ]  # fmt: skip
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=LIMIT_SECONDS, cwd=ROOT
            )
            why = (done.stderr.strip().splitlines() or ["no reason was given"])[-1][:120]
        except subprocess.TimeoutExpired:
            why = f"no answer in {LIMIT_SECONDS} s"
        report = path.read_bytes() if path.exists() else b""
    if not report:
        return 0, f"NOT audited for known vulnerabilities, the service cannot be reached: {why}"
    return judged(msgspec.json.decode(report, type=Report))


def judged(report: Report) -> tuple[int, str]:
    """The exit code and the words for a report."""
    bad = [
        f"{one.name} {one.version}: {vuln.id}, mended in {', '.join(vuln.fix_versions) or 'no version yet'}"
        for one in report.dependencies for vuln in one.vulns
    ]
    skipped = [one.name for one in report.dependencies if one.skip_reason]
    missed = [f"NOT audited, the service does not know them: {', '.join(skipped)}"] if skipped else []
    audited = len(report.dependencies) - len(skipped)
    total = f"{audited} distributions audited, {len(bad)} known vulnerabilities"
    return int(bool(bad)), "\n".join([*bad, *missed, total])


def sbom(path: Path) -> int:
    """Write the default installation's bill of materials, CycloneDX in JSON, the same for the same lock."""
    command = [
        sys.executable, "-m", "cyclonedx_py", "requirements", "--output-reproducible", "--output-format=JSON",
        f"--output-file={path}", "--pyproject=pyproject.toml", "requirements.txt",
    ]
    return subprocess.run(command, check=False, cwd=ROOT).returncode


if __name__ == "__main__":
    if sys.argv[1] == "sbom":
        sys.exit(sbom(Path(sys.argv[2])))
    code, said = audit([ROOT / name for name in LOCKED])
    sys.stdout.write(f"{said}\n")
    sys.exit(code)
