"""The path under which callers find the gateway, `[server] base_path`: off on the way in, on in every URL.

Not held here: which URLs there are. Whatever shows one asks `under_base`.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

from litestar.types import HTTPScope

_base: Final[ContextVar[str]] = ContextVar("base_path", default="")


def use_base(path: str) -> None:
    """From here on, in this request or task and in those it starts, URLs are shown under `path`."""
    _base.set(path)


def under_base(path: str) -> str:
    """A path of the gateway's, as callers know it."""
    return _base.get() + path


def take_off(scope: HTTPScope, base: str) -> bool:
    """Make the path one of the gateway's own; False for one that is not under `base`."""
    path = scope["path"]
    if not path.startswith(f"{base}/"):
        return False
    scope["path"] = path[len(base) :]
    return True
