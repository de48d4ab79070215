"""What every gateway of a test would make anew, made once in a process: its routes, and what TLS needs.

Each takes longer than most tests do, and none is what those tests prove. Held here: lending them. Not held
here: databases (`blank`, `postgres`), and any gateway.
"""

from __future__ import annotations

import functools
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from unittest import mock

from litestar import Litestar
from litestar.types import ASGIApp

from gateway import assembly
from gateway.api import application
from gateway.api.gateway import Gateway
from providers import adapters
from providers.transport import tls_context

NO_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For clients that speak plain HTTP: it knows no authority, whose list is what takes so long to read."""

known_adapters: Final = functools.cache(adapters)
"""Looking for them goes through all that is installed."""

_tls_context = functools.cache(tls_context)
_spare: Final[list[Litestar]] = []


@contextmanager
def lent_application(gateway: Gateway) -> Iterator[ASGIApp]:
    """What the server serves for this gateway, over routes that nobody else has meanwhile.

    Whoever has a base path gets routes of its own: it is part of their description.
    """
    if gateway.fleet.settings.server.base_path:
        yield application.make_application(gateway)
        return
    routes = _spare.pop() if _spare else application.make_litestar(None)
    routes.state.gateway = gateway
    with mock.patch.object(application, "make_litestar", return_value=routes):
        made = application.make_application(gateway)
    yield made
    _spare.append(routes)


def lent_tls() -> Any:  # noqa: ANN401 - mock's own type
    """Contexts towards vendors are made once for each file of authorities, for as long as this lasts."""
    return mock.patch.object(assembly, "tls_context", _tls_context)
