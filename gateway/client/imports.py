"""How the command line imports what is large: without what libraries bring along that nothing here uses.

Held here: what that is, and why it may be left out. Not held here: which verb imports what, and when
(`gateway.__main__`, the verbs).
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Final

_LARGE: Final = frozenset({"aiohttp", "httpx", "structlog"})
# httpx brings these for a command of its own, structlog for tracebacks in colours, wherever they are
# installed: a fifth of all that `serve` imports. Both do without; None in `sys.modules` is "not installed".
_UNUSED: Final = ("rich", "pygments")


@contextmanager
def lightly() -> Iterator[None]:
    """Import in this what is large; afterwards all is found as before.

    For a process that has but one thread yet: meanwhile the others would miss the same. Without effect where
    all is imported already.
    """
    if sys.modules.keys() >= _LARGE:
        yield
        return
    missing = [name for name in _UNUSED if name not in sys.modules]
    sys.modules.update(dict.fromkeys(missing))  # type: ignore[arg-type]
    gc.disable()  # what modules are made of is no garbage: looking for some took a tenth of the time
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        for name in missing:
            del sys.modules[name]


class Later:
    """Stands for a large module, by its full name, which is imported once something of it is asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - it is the module's
        """What the module calls so."""
        with lightly():
            found = import_module(self._name)
        return getattr(found, name)
