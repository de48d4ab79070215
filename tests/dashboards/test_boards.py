"""The boards as they are committed: made from their data, laid out, linked, and asking for what exists.

Not held here: whether a panel has data (`test_live`), what the metrics say.
"""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from deploy.grafana import boards
from deploy.grafana.panels import BOARDS, STATES, Board
from gateway.telemetry import PROVIDER_STATES, Telemetry
from tests.dashboards.prometheus import DEPLOY, Json
from tests.dashboards.queries import Asked, queries, selected

# Issue 7 names them, in this order.
WANTED = {
    "overview": [
        "Accepted and finished", "Success rate", "Time to video", "Oldest unfinished", "Open unknowns",
        "Provider strip",
    ],
    "providers": [
        "State", "In flight against limit", "Submissions by result", "Queue wait", "Vendor latency",
        "Vendor errors", "Polls per finished video", "Detection delay",
    ],
    "money": [
        "Spend by provider", "Reserved against settled", "Stored bytes", "Unstored oldest", "Webhook backlog",
    ],
}


def committed() -> list[Json]:
    return [json.loads(path.read_text("utf-8")) for path in sorted(boards.FOLDER.glob("*.json"))]


def labels_by_metric() -> dict[str, set[str]]:
    """Every sample name that the gateway exposes, with its labels."""
    known: dict[str, set[str]] = {}
    telemetry = Telemetry({"highway": ["kling-v3"]})
    for family in telemetry.registry.collect():
        for sample in family.samples:
            known.setdefault(sample.name, set()).update(sample.labels)
    return known


def shown(board: Json) -> list[Json]:
    """The panels that show something: rows left out."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def test_the_boards_are_made_from_their_data() -> None:
    for path, text in boards.texts().items():
        assert path.read_text("utf-8") == text, f"{path.name}: make boards"
    assert {path.name for path in boards.FOLDER.iterdir()} == {path.name for path in boards.texts()}


def test_the_boards_have_the_panels_that_were_asked_for() -> None:
    assert {board.name: [panel.title for panel in board.panels] for board in BOARDS} == WANTED


@pytest.mark.parametrize("asked", queries(), ids=lambda asked: f"{asked.panel}: {asked.expression[:40]}")
def test_expression_uses_metrics_and_labels_that_exist(asked: Asked) -> None:
    known = labels_by_metric()
    assert "$" not in asked.expression, "a variable that is not filled in"
    found = selected(asked.expression)
    assert found
    for metric, labels in found:
        assert metric in known, metric
        assert labels <= known[metric], f"{metric} has no label {sorted(labels - known[metric])}"


@pytest.mark.parametrize("expression", ["sum(rate(x[5m])", "sum by (le (x)"])
def test_nonsense_is_not_parsed(expression: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        selected(expression)


def test_every_state_of_a_provider_has_its_number() -> None:
    assert sorted(STATES) == sorted(PROVIDER_STATES)


@pytest.mark.parametrize("board", committed(), ids=lambda board: str(board["title"]))
def test_board_is_laid_out(board: Json) -> None:
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    taken: dict[tuple[int, int], str] = {}
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert max(x for x, _ in cells) < 24
        assert not cells & taken.keys(), f"{panel['title']} covers {taken[min(cells & taken.keys())]}"
        taken |= dict.fromkeys(cells, panel["title"])
    assert all(panel["description"] for panel in shown(board))


def leads(board: Json) -> list[tuple[str, int]]:
    """Where the panels of a board lead: a board's uid and a panel's id."""
    urls = [urlsplit(link["url"]) for panel in shown(board) for link in panel["links"]]
    return [(url.path.removeprefix("/d/"), int(re.findall(r"viewPanel=(\d+)", url.query)[0])) for url in urls]


def test_links_lead_to_boards_and_panels_that_exist() -> None:
    panels = {board["uid"]: {panel["id"] for panel in shown(board)} for board in committed()}
    for board in committed():
        others = [link["url"].removeprefix("/d/") for link in board["links"]]
        assert sorted(others) == sorted(panels.keys() - {board["uid"]})
        assert all(link["includeVars"] and link["keepTime"] for link in board["links"])
        assert leads(board) or board["title"].endswith("files"), board["title"]
        assert all(number in panels[uid] for uid, number in leads(board))


def chosen_by(expression: str) -> set[str]:
    return set(re.findall(r"\$(\w+)", expression)) - {"__rate_interval"}


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: str(board.name))
def test_a_board_has_the_variables_that_its_queries_use(board: Board) -> None:
    used = {name for panel in board.panels for query in panel.queries for name in chosen_by(query.expression)}
    assert used == set(board.variables)
    made = boards.made(board)["templating"]["list"]
    for variable in made:
        inner = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
        assert inner is not None
        assert inner[2] in labels_by_metric()[inner[1]]


def test_boards_use_the_provisioned_datasource_and_are_mounted() -> None:
    provisioning = DEPLOY / "grafana/provisioning"
    sources = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text("utf-8"))["datasources"]
    uids = {source["uid"] for source in sources}
    used = {panel["datasource"]["uid"] for board in committed() for panel in shown(board)}
    assert used <= uids
    folder = yaml.safe_load((provisioning / "dashboards/reelgate.yaml").read_text("utf-8"))["providers"][0]
    compose: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
    grafana = compose["services"]["grafana"]
    mounted = [mount.split(":") for mount in grafana["volumes"]]
    assert [origin for origin, at, *_ in mounted if at == folder["options"]["path"]] == ["./grafana/boards"]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (DEPLOY / "grafana/boards" / home.rsplit("/", 1)[1]).is_file()


def test_a_picture_of_each_board_is_kept_and_linked() -> None:
    readme = (DEPLOY / "README.md").read_text("utf-8")
    for board in BOARDS:
        assert (DEPLOY / f"grafana/pictures/{board.name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"(grafana/pictures/{board.name}.png)" in readme


