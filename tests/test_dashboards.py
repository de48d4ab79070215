"""The boards and the compose file: they parse, agree with each other and with the metrics, and run.

Held here: every expression of every board, parsed, compared with the registry of `gateway.telemetry`, and
answered by a real Prometheus that scrapes it; and that compose.yaml, the Dockerfile and their files agree.
Not held here: what the figures say (the tests of telemetry), and whether the images build.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx
import promql_parser
import pytest
import yaml

from gateway.sandbox.settings import SandboxSettings
from gateway.settings import load
from gateway.telemetry import Telemetry
from providers import adapters

DEPLOY = Path(__file__).parents[1] / "deploy"
BOARDS = sorted((DEPLOY / "grafana/boards").glob("*.json"))
WITHIN_SECONDS = 30  # a Prometheus that has not started by then will not
SCRAPES = 20  # a rate needs two; a busy machine may miss some

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="no Prometheus here: apt-get install --no-install-recommends prometheus",
)


class Query(NamedTuple):
    """One expression of a board, with the board's variables filled in."""

    board: str
    panel: str
    expression: str


def boards() -> list[dict[str, Any]]:
    return [json.loads(path.read_text("utf-8")) for path in BOARDS]


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    """The panels that show something: rows left out, those folded into a row included."""
    found = [inner for panel in board["panels"] for inner in (panel, *panel.get("panels", []))]
    return [panel for panel in found if panel["type"] != "row"]


def queries() -> list[Query]:
    """Every expression, as Grafana would send it with all providers chosen."""
    filled = {"$__rate_interval": "5m", "$provider": ".*"}
    found = []
    for board in boards():
        for panel in panels(board):
            for target in panel["targets"]:
                expression = target["expr"]
                for variable, value in filled.items():
                    expression = expression.replace(variable, value)
                found.append(Query(board["title"], panel["title"], expression))
    return found


def telemetry() -> Telemetry:
    """The metrics of a gateway with one provider that has just started and has answered one create."""
    started = Telemetry({"highway": ["kling-v3"]})
    started.request_answered("/v1/videos", "POST", 202, 0.01, "req_1")
    return started


def labels_by_metric() -> dict[str, set[str]]:
    """Every sample name that the gateway exposes, with its labels."""
    known: dict[str, set[str]] = {}
    for family in telemetry().registry.collect():
        for sample in family.samples:
            known.setdefault(sample.name, set()).update(sample.labels)
    return known


def selected(expression: str) -> tuple[set[str], set[str]]:
    """The metric names and the label names of an expression. Raises ValueError when it is no PromQL."""
    metrics: set[str] = set()
    labels: set[str] = set()

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.MatrixSelector):
            visit(node.vector_selector)
        elif isinstance(node, promql_parser.VectorSelector):
            metrics.add(node.name or "")
            labels.update(matcher.name for matcher in node.matchers.matchers)
        elif isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            labels.update(node.modifier.labels)

    promql_parser.walk(promql_parser.parse(expression), visit)
    return metrics, labels


def test_there_is_a_board_with_queries() -> None:
    assert BOARDS
    assert all(panels(board) for board in boards())


@pytest.mark.parametrize("query", queries(), ids=lambda query: f"{query.panel}: {query.expression[:40]}")
def test_expression_uses_metrics_and_labels_that_exist(query: Query) -> None:
    known = labels_by_metric()
    assert "$" not in query.expression, "a variable that this test does not fill in"
    metrics, labels = selected(query.expression)
    assert metrics
    assert metrics <= known.keys(), f"unknown metrics: {sorted(metrics - known.keys())}"
    for metric in metrics:
        assert labels <= known[metric], f"{metric} has no label {sorted(labels - known[metric])}"


@pytest.mark.parametrize("expression", ["sum(rate(x[5m])", "sum by (le (x)"])
def test_nonsense_is_not_parsed(expression: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        selected(expression)


@pytest.mark.parametrize("board", boards(), ids=lambda board: board["title"])
def test_board_is_laid_out(board: dict[str, Any]) -> None:
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    taken: dict[tuple[int, int], str] = {}
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert max(x for x, _ in cells) < 24
        assert not cells & taken.keys(), f"{panel['title']} covers {taken[min(cells & taken.keys())]}"
        taken |= dict.fromkeys(cells, panel["title"])
    assert all(panel["description"] for panel in panels(board))


@contextmanager
def exporter() -> Iterator[tuple[int, threading.Semaphore]]:
    """The metrics served on 127.0.0.1: the port, and what is released each time somebody has fetched them."""
    exposition = telemetry().exposition
    fetched = threading.Semaphore(0)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = exposition()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            fetched.release()

        def log_message(self, *_: object) -> None:
            """Nothing: a test says what failed."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.server_address[1], fetched
        finally:
            server.shutdown()
            thread.join()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def prometheus(folder: Path, target_port: int) -> Iterator[str]:
    """The address of a Prometheus, once it is ready, that scrapes 127.0.0.1:`target_port` all the time."""
    target = {"targets": [f"127.0.0.1:{target_port}"]}
    configuration = {
        "global": {"scrape_interval": "250ms", "scrape_timeout": "250ms"},
        "scrape_configs": [{"job_name": "reelgate", "static_configs": [target]}],
    }
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(configuration), "utf-8")
    address = f"127.0.0.1:{free_port()}"
    command = ["prometheus", f"--config.file={file}", f"--web.listen-address={address}"]
    command += [f"--storage.tsdb.path={folder / 'data'}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, cwd=folder) as process:
        said: list[bytes] = []
        ready = threading.Event()

        def listen() -> None:
            for line in process.stderr or ():
                said.append(line)
                if b"ready to receive web requests" in line:
                    ready.set()

        listener = threading.Thread(target=listen)
        listener.start()
        try:
            assert ready.wait(WITHIN_SECONDS), b"".join(said).decode("utf-8", "replace")
            yield f"http://{address}"
        finally:
            process.terminate()
            listener.join()


def unanswered(client: httpx.Client) -> list[tuple[Query, str]]:
    """The expressions that are refused, or have no data although every series exists from the start."""
    found = []
    for query in queries():
        answer = client.get("/api/v1/query", params={"query": query.expression}).json()
        if answer["status"] != "success":
            found.append((query, answer["error"]))
        elif not answer["data"]["result"]:
            found.append((query, "no data"))
    return found


@needs_prometheus
def test_a_real_prometheus_answers_every_expression_with_data(tmp_path: Path) -> None:
    with (
        exporter() as (port, fetched),
        prometheus(tmp_path, port) as address,
        httpx.Client(base_url=address, trust_env=False) as client,
    ):
        missing = unanswered(client)
        for _ in range(SCRAPES):
            assert fetched.acquire(timeout=WITHIN_SECONDS), "Prometheus does not scrape"
            missing = unanswered(client)
            if not missing:
                break
    assert not missing, f"after {SCRAPES} scrapes"


@needs_prometheus
def test_prometheus_takes_its_configuration() -> None:
    check = ["promtool", "check", "config", str(DEPLOY / "prometheus/prometheus.yml")]
    checked = subprocess.run(check, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr.decode()


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
    return loaded


def test_compose_mounts_only_what_exists() -> None:
    mounts = [mount for service in compose()["services"].values() for mount in service.get("volumes", [])]
    named = set(compose()["volumes"])
    assert mounts
    for mount in mounts:
        origin = mount.split(":")[0]
        assert origin in named or (origin.startswith("./") and (DEPLOY / origin).exists()), mount


def test_compose_pins_images_and_builds_stages_that_exist() -> None:
    stages = set(re.findall(r"^FROM \S+ AS (\S+)", (DEPLOY / "Dockerfile").read_text("utf-8"), re.MULTILINE))
    for name, service in compose()["services"].items():
        if "build" in service:
            assert service["build"]["target"] in stages, name
            assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file(), name
        else:
            assert re.fullmatch(r"[\w./-]+:v?\d+(\.\d+)+", service["image"]), name


def test_dockerfile_copies_only_what_exists() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text("utf-8")
    copies = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE)
    assert copies
    for path in " ".join(copies).split():
        assert (DEPLOY.parent / path).exists(), path


def test_the_gateway_takes_the_configuration_of_compose() -> None:
    environment = compose()["services"]["gateway"]["environment"]
    settings = load(DEPLOY / "compose.toml", adapters(), environment)
    assert settings.providers.keys() == {"highway", "myrouter", "unified"}
    assert set(environment.values()) == {SandboxSettings().key}


def test_compose_configuration_fits_its_services() -> None:
    services = compose()["services"]
    settings = tomllib.loads((DEPLOY / "compose.toml").read_text("utf-8"))
    for name, provider in settings["providers"].items():
        assert urlsplit(provider["base_url"]).hostname in services, name
        assert provider["api_key"]["env"] in services["gateway"]["environment"], name
    subnet = compose()["networks"]["default"]["ipam"]["config"][0]["subnet"]
    assert subnet in settings["egress"]["allow"]
    scraped = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text("utf-8"))["scrape_configs"]
    host, port = scraped[0]["static_configs"][0]["targets"][0].split(":")
    assert host in services
    assert settings["server"]["listen"].endswith(f":{port}")


def test_boards_use_the_provisioned_datasource_and_are_mounted() -> None:
    provisioning = DEPLOY / "grafana/provisioning"
    sources = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text("utf-8"))["datasources"]
    uids = {source["uid"] for source in sources}
    used = {panel["datasource"]["uid"] for board in boards() for panel in panels(board)}
    assert used <= uids
    folder = yaml.safe_load((provisioning / "dashboards/reelgate.yaml").read_text("utf-8"))["providers"][0]
    mounted = [mount.split(":") for mount in compose()["services"]["grafana"]["volumes"]]
    assert [origin for origin, at, *_ in mounted if at == folder["options"]["path"]] == ["./grafana/boards"]
