"""The register of adapters: one visible line each. Others join by the entry point group `reelgate.providers`.

Held here: which adapters exist. Not held here: which are used, and with what key (the gateway's settings).
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Final

from providers import highwayapi, myrouter, unified
from providers.spec import AdapterInfo

GROUP: Final = "reelgate.providers"

ADAPTERS: Final[tuple[AdapterInfo, ...]] = (
    highwayapi.INFO,
    myrouter.INFO,
    unified.INFO,
)


class RegisterError(Exception):
    """An out-of-tree adapter cannot join; the message names its entry point and says why."""


def adapters() -> dict[str, AdapterInfo]:
    """Every adapter by its name: ours, then those of other installed packages, which are imported only now.

    Raises RegisterError for one that cannot be loaded, is no AdapterInfo, or has a name that is taken.
    """
    found = {info.name: info for info in ADAPTERS}
    for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value)):
        info = _load(point)
        if info.name in found:
            raise RegisterError(f"{_where(point)}: there is already an adapter named {info.name!r}")
        found[info.name] = info
    return found


def _load(point: EntryPoint) -> AdapterInfo:
    try:
        info = point.load()
    except (ImportError, AttributeError, SyntaxError) as exc:
        raise RegisterError(f"{_where(point)}: cannot be loaded: {exc}") from exc
    except Exception as exc:  # whatever its code ends in, whose words may quote what it met
        raise RegisterError(f"{_where(point)}: cannot be loaded: {type(exc).__name__}") from exc
    if not isinstance(info, AdapterInfo):
        raise RegisterError(f"{_where(point)}: is a {type(info).__name__}, not a providers.spec.AdapterInfo")
    return info


def _where(point: EntryPoint) -> str:
    package = f" of {point.dist.name}" if point.dist is not None else ""
    return f"entry point {point.name} = {point.value}{package} in {GROUP}"
