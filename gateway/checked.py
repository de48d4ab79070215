"""What `reelgate check` tells of a configuration that can be used: what it configures, and what to look at.

Not held here: what is wrong with one that cannot (`gateway.settings`), a deeper examination
(`gateway.doctor`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from gateway.effective import effective
from gateway.settings import Settings, written
from gateway.upkeep import files_trouble


def facts_of(settings: Settings, file: Path, *, show: bool) -> dict[str, Any]:
    """All of it, for programs; with `show` every value with its origin, secrets hidden."""
    files = settings.files.url
    facts: dict[str, Any] = {
        "listen": str(settings.server.listen),
        "auth": settings.auth.mode,
        "store": settings.store.url.shown,
        "files": str(files.path or files.bucket or files.kind),
        "default_model": settings.default_model,
        "files_trouble": files_trouble(settings),
        "providers": {
            entry.name: {
                "adapter": entry.adapter.name, "base_url": entry.base_url,
                "offerings": [offering.slug for offering in entry.offerings],
            }
            for entry in settings.providers.values()
        },
        "retiring": [{"path": path, "on": on} for path, on in _last_days(settings)],
    }  # fmt: skip
    if show:
        facts["values"] = msgspec.to_builtins(effective(settings, written(file)))
    return facts


def lines_of(facts: Mapping[str, Any], file: Path) -> list[str]:
    """The same for people, on stdout."""
    if "values" in facts:
        rows = [(one["path"], one["value"], _where(one, file)) for one in facts["values"]]
    else:
        names = ("listen", "auth", "store", "files", "default_model")
        rows = [(name, facts[name], "") for name in names]
        rows += [
            (f"providers.{name}", f"{on['adapter']} at {on['base_url']}: {', '.join(on['offerings'])}", "")
            for name, on in facts["providers"].items()
        ]
    widths = [max(len(row[column]) for row in rows) + 2 for column in (0, 1)]
    return [f"{path:<{widths[0]}}{value:<{widths[1]}}{where}".rstrip() for path, value, where in rows]


def warnings_of(facts: Mapping[str, Any]) -> list[str]:
    """What can be used, and should be looked at."""
    days = [f"{one['path']} takes nothing new from {one['on']} on." for one in facts["retiring"]]
    trouble = facts["files_trouble"]
    return days if trouble is None else [*days, f"finished videos cannot be stored from here: {trouble}"]


def _where(value: Mapping[str, Any], file: Path) -> str:
    if value["line"] is None:
        return str(value["origin"])
    place = f"{file.name}:{value['line']}"
    return place if value["origin"] == "file" else f"{value['origin']}, {place}"


def _last_days(settings: Settings) -> Iterator[tuple[str, str]]:
    for name, provider in settings.providers.items():
        if provider.retire_on is not None:
            yield f"providers.{name}", str(provider.retire_on)
        for slug, day in provider.retire_offerings_on.items():
            yield f"{slug} of providers.{name}", str(day)
