"""`python -m tests.deploy.house HOW FOLDER IMAGES`: an installation without a container, used once.

To be run with mounts and a network of its own (`unshare --mount --net`), so that every port and every name
is as it stands in deploy/, and nothing outside can be reached: gateway and simulators from the image's steps
(`image`), a real PostgreSQL and a real Prometheus beside them. Held here: starting, using, looking, stopping.
Not held here: what the ways of installing differ in (`ways`).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

import asyncpg

from tests.deploy.image import ROOT, Image, Mount
from tests.deploy.ways import BUCKET, S3_KEYS, S3_PORT, SANDBOX, SANDBOX_HEALTH, WAYS, Way, is_good
from tests.postgres import Server, binaries

PATIENCE_SECONDS: Final = 180.0  # only what is broken takes that long
PAUSE_SECONDS: Final = 0.1
SUBNET: Final = "172.30.84"  # of compose.yaml
_HERE: Final = "127.0.0.1"
NAMES: Final = {"gateway": f"{SUBNET}.2", "sandbox": f"{SUBNET}.3", "postgres": _HERE, "localhost": _HERE}
PROMETHEUS: Final = "http://127.0.0.1:9090"
_ACCESS: Final = "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
RULES: Final = 12
_open: Final = build_opener(ProxyHandler({})).open


def until(found: Callable[[], bool], what: str) -> None:
    """Wait for that. Fails after PATIENCE_SECONDS."""
    ends_at = time.monotonic() + PATIENCE_SECONDS
    while not found():
        assert time.monotonic() < ends_at, f"never: {what}"
        time.sleep(PAUSE_SECONDS)


def ask(url: str, key: str = "", body: dict[str, Any] | None = None) -> tuple[int, bytes]:
    """Status and body of an answer."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    try:
        with _open(Request(url, data, headers), timeout=PATIENCE_SECONDS) as answer:  # noqa: S310 - ours
            return answer.status, answer.read()
    except HTTPError as error:
        return error.code, error.read()


class Container:
    """A command in an image, or on this machine, and others beside it."""

    def __init__(self, image: Image | None, words: Sequence[str], mounts: Sequence[Mount], log: Path) -> None:
        self._image, self._log = image, log
        self._mounts = [Mount("/etc/hosts", Path("/etc/hosts"), True), *mounts]
        with log.open("wb") as out:
            self.process = subprocess.Popen(self._entered(words), stdout=out, stderr=subprocess.STDOUT)

    def _entered(self, words: Sequence[str]) -> Sequence[str]:
        return words if self._image is None else self._image.entered(words, self._mounts)

    @property
    def said(self) -> str:
        """All of its output."""
        return self._log.read_text("utf-8")

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Another command, as `docker exec` and `kubectl exec` run one."""
        return subprocess.run(self._entered(words), capture_output=True, text=True, check=False)

    def end(self, within_seconds: float) -> int:
        """SIGTERM; the exit code. Fails when it takes longer."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(within_seconds)


def lay_network(folder: Path) -> None:
    """Only this machine, under the names and addresses of compose.yaml."""
    hosts = folder / "hosts"
    hosts.write_text("".join(f"{address} {name}\n" for name, address in NAMES.items()), "utf-8")
    for words in (
        ["ip", "link", "set", "lo", "up"],
        *(["ip", "address", "add", f"{one}/24", "dev", "lo"] for one in NAMES.values() if SUBNET in one),
        ["mount", "--bind", str(hosts), "/etc/hosts"],
    ):
        subprocess.run(words, check=True)


@contextmanager
def database(folder: Path, url: str, health: Sequence[str]) -> Iterator[None]:
    """A PostgreSQL where that URL says, which asks for the password that stands in it."""
    rules = Path("/tmp") / f"{folder.name}-hba.conf"  # noqa: S108 - where "nobody" can read it
    rules.write_text(_ACCESS, "utf-8")
    server = Server(f"hba_file={rules}")
    server.port = 5432
    try:
        server.start()
        asyncio.run(_grant(server.url(), urlsplit(url).password or ""))
        if health:
            home = binaries()
            assert home is not None
            subprocess.run([home / "bin" / health[0], *health[1:]], check=True)
        yield
    finally:
        server.close()
        rules.unlink()


async def _grant(url: str, password: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(f"create role reelgate login password '{password}'")
    await connection.execute("create database reelgate owner reelgate")
    await connection.close()


@contextmanager
def bucket(folder: Path) -> Iterator[None]:
    """A server of S3 with the bucket."""
    (folder / "s3" / BUCKET).mkdir(parents=True)
    words = [sys.executable, "-m", "nanio", "serve", "--host", "127.0.0.1", "--port", str(S3_PORT)]
    words += ["--data-dir", str(folder / "s3"), "--log-level", "error", "--no-access-log"]
    keys = dict(zip(("NANIO_ACCESS_KEY", "NANIO_SECRET_KEY"), S3_KEYS.values(), strict=True))
    with subprocess.Popen(words, env=os.environ | keys) as process:
        try:
            yield
        finally:
            process.terminate()


@contextmanager
def prometheus(way: Way, folder: Path) -> Iterator[Callable[[str], list[Any]]]:
    """A Prometheus by the configuration and the options of compose.yaml; what it answers to a query."""
    where = {
        "/etc/prometheus/prometheus.yml": str(ROOT / "deploy/prometheus/prometheus.yml"),
        "/prometheus": str(folder / "prometheus"),
    }
    options = [option.partition("=") for option in way.prometheus]
    words = ["prometheus", *(f"{name}={where.get(value, value)}" for name, _, value in options)]
    with (folder / "prometheus.log").open("wb") as out, subprocess.Popen(words, stderr=out) as process:
        def query(path: str) -> list[Any]:
            found = json.loads(ask(f"{PROMETHEUS}/api/v1/{path}")[1])["data"]
            rows: list[Any] = found["result"] if "result" in found else found["groups"][0]["rules"]
            return rows

        try:
            until(lambda: is_good(way.prometheus_health), "Prometheus")
            yield query
        finally:
            process.terminate()


def start(way: Way, folder: Path, house: ExitStack) -> Container:
    """The gateway, once its own checks pass; before it, what it needs."""
    image = way.sandbox
    words, health = list(SANDBOX), list(SANDBOX_HEALTH)
    if image is not None:
        words, health = image.entrypoint + image.command, image.health
    sandbox = Container(image, words, [Mount("/tmp")], folder / "sandbox.log")  # noqa: S108
    house.callback(sandbox.process.kill)
    if way.has_s3:
        house.enter_context(bucket(folder))
    if way.store_url:
        house.enter_context(database(folder, way.store_url, way.database_health))
    until(lambda: sandbox.run(*health).returncode == 0, "the simulators")
    gateway = Container(way.gateway, way.words, way.mounts, folder / "gateway.log")
    house.callback(gateway.process.kill)
    for check in way.checks:
        ends_at = time.monotonic() + PATIENCE_SECONDS
        while not check(gateway.run, gateway.process.pid):
            assert time.monotonic() < ends_at, gateway.said
            assert gateway.process.poll() is None, gateway.said
            time.sleep(PAUSE_SECONDS)
    return gateway


def look_around(gateway: Container) -> None:
    """Who it is, and that it can write only where it should."""
    status = gateway.run("cat", "/proc/self/status").stdout.split("\n")
    told = dict(line.split(":\t", 1) for line in status if ":\t" in line)
    assert told["Uid"].split() == ["10001"] * 4, told["Uid"]
    assert {told[f"Cap{name}"] for name in ("Eff", "Prm", "Inh", "Bnd", "Amb")} == {"0" * 16}, told
    assert told["NoNewPrivs"] == "1"
    for place in ("/x", "/opt/reelgate/x", "/etc/reelgate/x", "/usr/local/x", "/opt/x", "/etc/passwd"):
        assert gateway.run("touch", place).returncode != 0, f"{place} can be written"
    for place in ("/tmp/x", "/var/lib/reelgate/x"):  # noqa: S108
        done = gateway.run("touch", place)
        assert done.returncode == 0, done.stderr
    assert gateway.run("rm", "/var/lib/reelgate/x").returncode == 0


def make_a_video(gateway: Container, url: str) -> int:
    """With a key of its own, from the order to the file; the bytes of that."""
    config = "/etc/reelgate/reelgate.toml"
    made = gateway.run("reelgate", "keys", "create", "me", "--config", config, "--json")
    assert made.returncode == 0, made.stderr
    key = json.loads(made.stdout)["key"]
    status, body = ask(f"{url}/v1/videos", key, {"prompt": "a paper boat"})
    assert status == 202, body
    video = json.loads(body)
    ends_at = time.monotonic() + PATIENCE_SECONDS
    while (video["status"], video["stage"]) not in {("completed", "stored"), ("completed", "linked")}:
        assert video["status"] in {"queued", "in_progress", "completed"}, video
        assert time.monotonic() < ends_at, video
        video = json.loads(ask(f"{url}/v1/videos/{video['id']}?wait=10", key)[1])
    status, file = ask(f"{url}/v1/videos/{video['id']}/content", key)
    assert (status, file[4:8]) == (200, b"ftyp")
    return len(file)


def live(way: Way, folder: Path) -> None:
    """One life of an installation."""
    with ExitStack() as house:
        begun = time.monotonic()
        gateway = start(way, folder, house)
        print(f"ready after {time.monotonic() - begun:.1f} s")  # noqa: T201
        asked = house.enter_context(prometheus(way, folder)) if way.prometheus else None
        look_around(gateway)
        print(f"a video of {make_a_video(gateway, way.url)} bytes")  # noqa: T201
        if asked is not None:
            until(lambda: bool(asked('query?query=up{job="reelgate"}==1')), "the gateway was scraped")
            assert len(asked("rules?type=alert")) == RULES
            print("scraped, the rules loaded")  # noqa: T201
        code = gateway.end(way.grace_seconds)
        assert code == 0, (code, gateway.said)
        assert '"drain_timed_out"' not in gateway.said
        print("drained and ended")  # noqa: T201


def main() -> None:
    """Live one way in an empty folder, with the images that are in another."""
    how, folder, images = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    os.umask(0o022)
    lay_network(folder)
    live(WAYS[how](folder, images), folder)


if __name__ == "__main__":
    main()
