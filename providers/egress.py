"""Which addresses we may connect to: a policy, a check of a URL, and guards for the transport; all pure.

Held here: what counts as public, what is never reached, what the configuration adds. Not held here: names
(each address that one resolves to is judged on connecting) and sockets (`providers.transport`).

    reach     meant for                                         may connect to
      origin  a provider's own base_url, or a listed name       anything but metadata services
      public  any other https URL                               public addresses and the listed ones
      listed  any other http URL                                the listed ones only
"""

from __future__ import annotations

import errno
import ipaddress
import re
from functools import lru_cache
from typing import Final, Literal, TypeAlias

import httpx
import msgspec

from providers.transport import AddressInfo, Guard

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Origin: TypeAlias = tuple[str, str, int]
Reach: TypeAlias = Literal["origin", "public", "listed"]

# Credentials of the machine itself are handed out here: never, not even when listed.
_METADATA: Final = tuple(map(ipaddress.ip_network, (
    "169.254.169.254/32",  # most clouds
    "169.254.170.2/32", "169.254.170.23/32", "fd00:ec2::23/128",  # AWS: containers and pods
    "fd00:ec2::254/128", "fd20:ce::254/128",  # AWS and Google over IPv6
    "100.100.100.200/32",  # Alibaba
    "168.63.129.16/32",  # Azure, and a public address to all appearance
    "192.0.0.192/32",  # Oracle
    "169.254.0.23/32",  # Tencent
    "169.254.42.42/32", "fd00:42::42/128",  # Scaleway
    "100.96.0.96/32",  # Volcengine
)))

# Not public, though some Python between 3.11.0 and now says `is_global` of it.
_NOT_PUBLIC: Final = tuple(map(ipaddress.ip_network, (
    "0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.88.99.0/24", "198.18.0.0/15", "224.0.0.0/4",
    "240.0.0.0/4",
    "2001::/23",  # protocol assignments, Teredo among them
    "2001:db8::/32", "3fff::/20",  # documentation
    "2002::/16",  # 6to4: wraps any IPv4 address
)))
_IPV6_UNICAST: Final = ipaddress.IPv6Network("2000::/3")  # so no NAT64, mapped, local, multicast

# IPv6 forms that hold an IPv4 address in their last 32 bits.
_WRAPPERS: Final = tuple(map(ipaddress.IPv6Network, (
    "::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48",
)))
_NUMERIC: Final = re.compile(r"(.*\.)?([0-9]+|0x[0-9a-f]*)", re.IGNORECASE)
_NAME: Final = re.compile(r"(?!.{254})[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
_AUTHORITY: Final = re.compile(r"[^:/?#]*://([^/?#]*)")
_ODD_PORT: Final = re.compile(r":(?![0-9]*\Z)[^:\]]*\Z")  # `int` takes signs, and the digits of any script
_PORTS: Final = {"http": 80, "https": 443}


class EgressRefused(OSError):
    """The policy forbids this address. The transport makes a connect error of it: nothing was sent."""

    def __init__(self, address: str) -> None:
        super().__init__(errno.EACCES, f"the egress policy refuses {address}")


class AddressPolicy(msgspec.Struct, frozen=True):
    """Public addresses, the networks of `allow`, and `origins`: the `origin` of each provider's base_url.

    `hosts` are listed names, in lower case: wherever they lead, on any port, who listed them trusts them.
    """

    allow: tuple[Network, ...] = ()
    origins: frozenset[Origin] = frozenset()
    hosts: frozenset[str] = frozenset()

    def permits(self, address: Address, reach: Reach = "public") -> bool:
        """Whether a connection to `address` is fine, on the way to a URL of that `reach`."""
        if any(form in network for form in (address, *_wrapped(address)) for network in _METADATA):
            return False
        if reach == "origin" or any(address in network for network in self.allow):
            return True
        return reach == "public" and _public(address)


def origin(url: str) -> Origin:
    """Scheme, host and port of `url`, for comparison. Raises ValueError when it is no http or https URL."""
    try:
        parsed = httpx.URL(url)
        readable = bool(parsed.host)
    except (httpx.InvalidURL, ValueError) as exc:
        raise ValueError("not a URL") from exc
    host = parsed.raw_host.decode("ascii").rstrip(".")
    if parsed.scheme not in _PORTS or not readable or not (_NAME.fullmatch(host) or _literal(host)):
        raise ValueError("not an http or https URL")
    return parsed.scheme, host, _PORTS[parsed.scheme] if parsed.port is None else parsed.port


def reach_of(url: str, policy: AddressPolicy) -> Reach:
    """By which rule `url` is connected to. Raises ValueError as `origin`."""
    place = origin(url)
    if place in policy.origins or place[1] in policy.hosts:
        return "origin"
    return "public" if place[0] == "https" else "listed"


def check_url(url: str, policy: AddressPolicy) -> str | None:
    """Why a link (result, webhook) cannot be used, or None. What a name resolves to is judged on connecting.

    Judged as httpx reads it, because that is how it is connected to. Plain http passes for an origin of the
    policy, for a listed address, and for a name where anything is listed.
    """
    if re.search(r"[\\\s\x00-\x1f\x7f]", url):
        return "has characters that no URL has"
    try:
        _, host, port = origin(url)
        userinfo = httpx.URL(url).userinfo
        rule = reach_of(url, policy)
    except ValueError:
        return "is not an http or https URL"
    address = _literal(host)
    reachable = policy.permits(address, rule) if address else rule != "listed" or bool(policy.allow)
    forbidden = address is not None and not reachable and not policy.permits(address)
    faults = (
        (bool(userinfo), "carries a user name or password"),
        (not 0 < port < 65536 or _is_port_odd(url), "has no such port"),
        (address is not None and "%" in host, "has a zone, which means nothing to anybody else"),
        (address is None and bool(_NUMERIC.fullmatch(host)), "has a number for a host"),
        (forbidden, "leads to a forbidden address"),
        (not reachable, "is not https"),
    )
    return next((reason for wrong, reason in faults if wrong), None)


def guard(policy: AddressPolicy, reach: Reach) -> Guard:
    """A guard for the transport that serves URLs of this `reach`. It raises EgressRefused."""

    @lru_cache(1_024)  # a vendor has a few addresses, and each connection is judged twice
    def is_permitted(host: str) -> bool:
        address = _literal(host)
        return address is not None and policy.permits(address, reach)

    def check(info: AddressInfo) -> None:
        host = str(info[4][0])
        if not is_permitted(host):
            raise EgressRefused(host)

    return check


def _is_port_odd(url: str) -> bool:
    authority = _AUTHORITY.match(url)
    return authority is not None and _ODD_PORT.search(authority[1]) is not None


def _literal(host: str) -> Address | None:
    """`host` as an address, its zone left out: a zone makes no address public."""
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _public(address: Address) -> bool:
    if not address.is_global or any(address in network for network in _NOT_PUBLIC):
        return False
    return address.version == 4 or address in _IPV6_UNICAST


def _wrapped(address: Address) -> tuple[ipaddress.IPv4Address, ...]:
    """The IPv4 addresses that a translator would turn this IPv6 address into."""
    if isinstance(address, ipaddress.IPv4Address):
        return ()
    wraps = any(address in form for form in _WRAPPERS)
    last = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if wraps else None
    return tuple(form for form in (last, address.sixtofour, *(address.teredo or ())) if form is not None)
