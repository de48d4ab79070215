"""A real Prometheus as a process, the rules with their times shortened, and who it tells of alerts.

Held here: starting it, asking it, and an Alertmanager that only listens. No expectation is here.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Final, TypeAlias

import httpx
import msgspec
import pytest
import yaml

from tests.handling import handling
from tests.serving import free_port

Json: TypeAlias = dict[str, Any]  # as it came

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
RULES: Final = DEPLOY / "prometheus/alerts.yml"
PATIENCE_SECONDS: Final = 30.0  # only a broken Prometheus takes that long to start, or to tell of an alert
SHORTER: Final = 100  # five minutes of a rule are three seconds of a test
_LEAST_MS: Final = 1_000  # of a `for`: on a busy machine a single scrape may fail
_INTERVAL: Final = "500ms"
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION: Final = re.compile(r"(?<=\[)(\d+)([smhd])(?=\])")

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="no Prometheus here: apt-get install --no-install-recommends prometheus",
)


class Prometheus:
    """One that is ready."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def _data(self, path: str, **params: str) -> Any:  # noqa: ANN401 - bytes enter here
        answer = self._client.get(f"/api/v1/{path}", params=params)
        found = msgspec.json.decode(answer.content, type=Json)
        assert found["status"] == "success", found
        return found["data"]

    def query(self, expression: str) -> list[Json]:
        """What an expression is now: its series, those that are no number left out."""
        result: list[Json] = self._data("query", query=expression)["result"]
        return [series for series in result if series["value"][1] != "NaN"]

    def query_range(self, expression: str, start: float, end: float, step_seconds: float) -> list[Json]:
        """What an expression was over a time, in Unix seconds."""
        times = {"start": str(start), "end": str(end), "step": str(step_seconds)}
        result: list[Json] = self._data("query_range", query=expression, **times)["result"]
        return result

    def exemplars(self, expression: str, start: float, end: float) -> list[Json]:
        """What the series of an expression point at in that time, in Unix seconds."""
        found: list[Json] = self._data("query_exemplars", query=expression, start=str(start), end=str(end))
        return found

    def alerts(self) -> list[Json]:
        """Those that are pending or firing."""
        found: list[Json] = self._data("alerts")["alerts"]
        return found


class Alertmanager:
    """What was told of alerts that fire, each name once."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.told: dict[str, Json] = {}
        self._came = threading.Condition()

    def take(self, alerts: Sequence[Json]) -> None:
        """Some fire, or are over."""
        with self._came:
            for alert in alerts:
                self.told.setdefault(alert["labels"]["alertname"], alert)
            self._came.notify_all()

    def wait(self, name: str) -> Json:
        """The first that was told of this alert."""
        with self._came:
            assert self._came.wait_for(lambda: name in self.told, PATIENCE_SECONDS), list(self.told)
            return self.told[name]


@contextmanager
def alertmanager() -> Iterator[Alertmanager]:
    """An Alertmanager on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            made.take(msgspec.json.decode(body, type=list[Json]))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with handling(Handler) as url:
        made = Alertmanager(url.removeprefix("http://"))
        yield made


def _milliseconds(number: str, unit: str) -> int:
    """A duration of the rules, shortened."""
    return int(number) * _SECONDS[unit] * 1000 // SHORTER


def shortened(rules: Path = RULES) -> str:
    """The rules as they are, with every `for` and every window SHORTER times as short."""
    tree = yaml.safe_load(rules.read_text("utf-8"))
    for rule in (rule for group in tree["groups"] for rule in group["rules"]):
        rule["expr"] = _DURATION.sub(lambda found: f"{_milliseconds(*found.groups())}ms", rule["expr"])
        if "for" in rule:
            rule["for"] = f"{max(_LEAST_MS, _milliseconds(rule['for'][:-1], rule['for'][-1]))}ms"
    return str(yaml.safe_dump(tree))


class _Process:
    """`prometheus` with its configuration in `folder`, and what it says."""

    def __init__(self, folder: Path, configuration: Json, address: str) -> None:
        self.folder = folder
        self._said: list[str] = []
        self._came = threading.Condition()
        self.configure(configuration)
        command = ["prometheus", f"--config.file={folder / 'prometheus.yml'}"]
        command += [f"--web.listen-address={address}", f"--storage.tsdb.path={folder / 'data'}"]
        command += ["--enable-feature=exemplar-storage"]
        command += ["--rules.alert.resend-delay=1s"]  # after a reload nobody is told for some seconds
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, cwd=folder, text=True)
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def _listen(self) -> None:
        for line in self.process.stderr or ():
            with self._came:
                self._said.append(line)
                self._came.notify_all()

    def configure(self, configuration: Json) -> None:
        (self.folder / "prometheus.yml").write_text(yaml.safe_dump(configuration), "utf-8")

    def wait(self, text: str, times: int = 1) -> None:
        """Return when it has said that so many times."""
        with self._came:
            has_come = self._came.wait_for(
                lambda: sum(text in line for line in self._said) >= times, PATIENCE_SECONDS
            )
            assert has_come, "".join(self._said)

    def end(self) -> None:
        self.process.terminate()
        self._listener.join()
        self.process.wait()
        if self.process.stderr is not None:
            self.process.stderr.close()


@contextmanager
def prometheus(
    folder: Path, target: str, told: Alertmanager | None = None, *, interval: str = _INTERVAL
) -> Iterator[Prometheus]:
    """A Prometheus that has scraped `target` (HOST:PORT), and goes on doing so.

    Where somebody is to be told, the rules hold from then on.
    """
    folder.mkdir(exist_ok=True)
    configuration: Json = {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "scrape_configs": [{"job_name": "reelgate", "static_configs": [{"targets": [target]}]}],
    }
    if told is not None:
        managers = [{"static_configs": [{"targets": [told.address]}]}]
        configuration["alerting"] = {"alertmanagers": managers}
    address = f"127.0.0.1:{free_port()}"
    process = _Process(folder, configuration, address)
    try:
        process.wait("ready to receive web requests")
        with httpx.Client(base_url=f"http://{address}", trust_env=False) as client:
            made, until = Prometheus(client), time.monotonic() + PATIENCE_SECONDS
            while not made.query("up == 1"):
                assert time.monotonic() < until, "nothing was scraped"
            if told is not None:
                (folder / "alerts.yml").write_text(shortened(), "utf-8")
                process.configure(configuration | {"rule_files": ["alerts.yml"]})
                process.process.send_signal(signal.SIGHUP)
                process.wait("Completed loading of configuration file", 2)
            yield made
    finally:
        process.end()
