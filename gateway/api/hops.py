"""Whose address a request comes from, where proxies stand between.

Only a peer that is listed as a proxy is believed, and of what it says only the part that listed proxies wrote
themselves. Not held here: what an address is used for (`auth`).
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from litestar.types import Scope

from gateway.values import Network

_HEADER: Final = b"x-forwarded-for"


def address_of(scope: Scope, trusted: Sequence[Network]) -> str:
    """The caller's address: the last hop that is none of the `trusted`; empty where there is no peer.

    What no address can be made of ends the way: the hop before it counts.
    """
    client = scope["client"]
    if client is None:
        return ""
    if not trusted:
        return client[0]
    here = _address(client[0])
    if here is None:
        return client[0]
    values = [value for name, value in scope["headers"] if name == _HEADER]
    hops = b",".join(values).decode("latin-1").split(",") if values else []
    while hops and any(here in network for network in trusted):
        before = _address(hops.pop())
        if before is None:
            break
        here = before
    return str(here)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """An address as proxies write it: bare, with a port, or in brackets; None for anything else."""
    text = text.strip(" \t")
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = None if "%" in text else ip_address(text)
    except ValueError:
        return None
    # A socket for both families shows a peer of the old one so.
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return found if mapped is None else mapped
