"""The section `[server]`: where the gateway listens, and who stands between it and its callers.

Not held here: other sections (`gateway.settings`), what the values do (`gateway.listening`, `gateway.api`).
"""

from __future__ import annotations

import re
from typing import Annotated, Final
from urllib.parse import urlsplit

from msgspec import Struct

from gateway import values as read
from gateway.reading import Pass, all_known
from gateway.values import Address, Network, ReadError, Source

BASE_PATH_MAX_CHARS: Final = 200
_PATH: Final = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+/?")


def _network(source: Source, raw: object) -> Network:
    """A network (`10.0.0.0/8`) or a single address."""
    found = read.network_or_host(source, raw)
    if isinstance(found, str):
        raise ReadError('expected a network such as "10.0.0.0/8" or an address; names are not resolved here')
    if found.prefixlen == 0:
        raise ReadError("would believe everybody, whoever they say they are; name the proxies themselves")
    return found


def _base_path(_source: Source, raw: object) -> str:
    """A path before all others (`/reelgate`), without a slash at its end; empty: none."""
    if raw == "":
        return ""
    if not isinstance(raw, str) or len(raw) > BASE_PATH_MAX_CHARS or not _PATH.fullmatch(raw):
        raise ReadError('expected a path such as "/reelgate", of letters, digits, - . _ ~ and /')
    return raw.removesuffix("/")


def _origin(source: Source, raw: object) -> str:
    """The origin of a web page, as browsers spell it: scheme, host, and a port unless it is the usual one."""
    if raw == "*":
        raise ReadError("every page of the web is never meant; name the origins one by one")
    url = read.http_url(source, raw)
    parts = urlsplit(url)
    if parts.path:
        raise ReadError(f'an origin has no path; did you mean "{parts.scheme}://{parts.netloc}"?')
    usual = {"http": 80, "https": 443}[parts.scheme]
    return url.removesuffix(f":{usual}") if parts.port == usual else url


class Server(Struct, frozen=True, kw_only=True):
    """`management` moves /livez, /readyz, /metrics to their own port; `public_url` ends without a slash.

    `base_path` stands before every path, and then ends `public_url`, too. Only `trusted_proxies` are believed
    whom they forward. Pages of `cors_origins` may call, with a key.
    """

    listen: Annotated[Address, read.address] = Address("127.0.0.1", 8080)
    management: Annotated[Address, read.address] | None = None
    public_url: Annotated[str, read.http_url] | None = None
    base_path: Annotated[str, _base_path] = ""
    trusted_proxies: tuple[Annotated[Network, _network], ...] = ()
    cors_origins: tuple[Annotated[str, _origin], ...] = ()


def check_server(reading: Pass, server: Server) -> None:
    """Two addresses that differ, and one path that does not."""
    if all_known(server.listen) and server.listen.port and server.management == server.listen:
        reading.wrong("server.management", "must be another address than server.listen")
    url, path = server.public_url, server.base_path
    if all_known(url, path) and url is not None and not urlsplit(url).path.endswith(path):
        reading.wrong("server.public_url", f"must end with server.base_path, {path}")
