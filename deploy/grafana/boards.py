"""`python -m deploy.grafana.boards` writes the boards (`panels`) as Grafana wants them, into `boards/`.

Held here: what is of Grafana: layout, units, colours, variables, links. Not held here: any query. Grafana's
own generator needs more lines than this, and its newest release is for an old Grafana.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TypeAlias

from deploy.grafana.panels import BOARDS, STATES, Board, Panel, Query

Json: TypeAlias = dict[str, Any]

FOLDER: Final = Path(__file__).parent / "boards"
_SOURCE: Final = {"type": "prometheus", "uid": "prometheus"}
_WHOLE: Final = 24
_HEIGHT: Final = {"graph": 8, "number": 8, "states": 7}
_KINDS: Final = {"graph": "timeseries", "number": "stat", "states": "state-timeline"}
_UNITS: Final = {
    "s": "s", "bytes": "bytes", "percentunit": "percentunit", "per minute": "none", "currency": "currency:",
    "count": "none", "state": "none",
}
_COLOURS: Final = {
    "healthy": "green", "degraded": "yellow", "paused": "blue", "draining": "purple", "open": "red",
}
# What the values of each variable are read from.
_VARIABLES: Final = {
    "provider": "label_values(reelgate_provider_in_flight, provider)",
    "model": "label_values(reelgate_video_duration_seconds_count, model)",
}


def uid(board: str) -> str:
    """What a board is addressed by."""
    return f"reelgate-{board}"


def numbered(board: Board) -> dict[str, int]:
    """The ids of a board's panels by their titles."""
    return {panel.title: number for number, panel in enumerate(board.panels, 1)}


def made(board: Board) -> Json:
    """The board as Grafana loads it."""
    return {
        "uid": uid(board.name), "title": board.title, "tags": ["reelgate"], "schemaVersion": 39, "version": 1,
        "editable": False, "refresh": "10s", "timezone": "", "graphTooltip": 1,
        "time": {"from": "now-1h", "to": "now"},
        "links": [_to_board(other) for other in BOARDS if other is not board],
        "templating": {"list": [_variable(name) for name in board.variables]},
        "panels": list(_laid_out(board)),
    }


def _to_board(board: Board) -> Json:
    return {
        "type": "link", "title": board.title, "url": f"/d/{uid(board.name)}", "icon": "dashboard",
        "includeVars": True, "keepTime": True, "targetBlank": False,
    }


def _variable(name: str) -> Json:
    return {
        "name": name, "label": name.capitalize(), "type": "query", "datasource": _SOURCE,
        "refresh": 2, "sort": 1, "query": {"query": _VARIABLES[name], "refId": name}, "includeAll": True,
        "multi": True, "allValue": ".*", "current": {"text": ["All"], "value": ["$__all"]},
    }


def _laid_out(board: Board) -> Iterator[Json]:
    """Rows from the top, each panel beside the one before while there is room."""
    ids, y = numbered(board), 0
    for number, (title, panels) in enumerate(board.rows):
        yield {
            "id": 100 + number, "type": "row", "title": title, "collapsed": False, "panels": [],
            "gridPos": {"x": 0, "y": y, "w": _WHOLE, "h": 1},
        }
        x, y = 0, y + 1
        height = 0
        for panel in panels:
            if x + panel.width > _WHOLE:
                x, y, height = 0, y + height, 0
            place = {"x": x, "y": y, "w": panel.width, "h": _HEIGHT[panel.kind]}
            yield _panel(panel, ids[panel.title], place)
            x, height = x + panel.width, max(height, _HEIGHT[panel.kind])
        y += height


def _panel(panel: Panel, number: int, place: Json) -> Json:
    return {
        "id": number, "type": _KINDS[panel.kind], "title": panel.title, "description": panel.about,
        "datasource": _SOURCE, "gridPos": place, "links": [_to_panel(*place) for place in panel.leads_to],
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _options(panel),
        "targets": [_target(index, query, panel) for index, query in enumerate(panel.queries)],
    }


def _to_panel(board: str, title: str) -> Json:
    """A link to a panel of a board, with the same time and choice. Raises KeyError for none of that title."""
    (found,) = (one for one in BOARDS if one.name == board)
    variables = "".join(f"&${{{name}:queryparam}}" for name in found.variables)
    url = f"/d/{uid(board)}?viewPanel={numbered(found)[title]}&${{__url_time_range}}{variables}"
    return {"title": f"{title} ({found.title.removeprefix('Reelgate: ')})", "url": url, "targetBlank": False}


def _defaults(panel: Panel) -> Json:
    steps: list[Json] = [{"color": "green", "value": None}]
    if panel.high is not None:
        steps.append({"color": "red", "value": panel.high})
    defaults: Json = {
        "unit": _UNITS[panel.unit], "min": 0, "thresholds": {"mode": "absolute", "steps": steps},
        "color": {"mode": "thresholds" if panel.kind == "number" else "palette-classic"},
    }
    if panel.unit == "percentunit":
        defaults["max"] = 1
    if panel.unit == "state":
        options = {str(code): {"text": word, "color": _COLOURS[word], "index": code}
                   for code, word in enumerate(STATES)}
        defaults["mappings"] = [{"type": "value", "options": options}]
    return defaults


def _options(panel: Panel) -> Json:
    if panel.kind == "number":
        return {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "background", "textMode": "auto"}
    return {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}


def _target(index: int, query: Query, panel: Panel) -> Json:
    return {
        "refId": chr(ord("A") + index), "datasource": _SOURCE, "expr": query.expression,
        "legendFormat": query.legend, "instant": panel.kind == "number", "range": panel.kind != "number",
        # Dots that lead to traces, where tracing is on and there are any.
        "exemplar": panel.kind == "graph" and "_bucket" in query.expression,
    }


def texts() -> dict[Path, str]:
    """Each board's file and what is to be in it."""
    return {
        FOLDER / f"{board.name}.json": json.dumps(made(board), indent=1, ensure_ascii=False) + "\n"
        for board in BOARDS
    }


if __name__ == "__main__":
    for path, text in texts().items():
        path.write_text(text, "utf-8")
