"""Who is calling: keys, their roles, and the guard that every route passes. Deny by default.

A key is looked up by the SHA-256 of the whole of it; the key itself is stored nowhere, and what is wrong with
it is not told. Not held here: which role a route needs (each route says so in its `opt`), budgets.
"""

from __future__ import annotations

import hashlib
import secrets
import sys
import zlib
from collections.abc import Callable
from ipaddress import ip_address
from typing import Final, Literal, TypeAlias
from urllib.parse import urlsplit

import msgspec

from gateway.core.admission import Rate
from gateway.core.grants import EVERYTHING, Grant
from gateway.errors import Problem
from gateway.storage.rows import KeyRow
from gateway.storage.store import Store

Role: TypeAlias = Literal["viewer", "caller", "operator", "admin"]

# What a role may do, by the role that a route asks for.
MAY: Final[dict[Role, frozenset[Role]]] = {
    "viewer": frozenset({"viewer"}),
    "caller": frozenset({"viewer", "caller"}),
    "operator": frozenset({"viewer", "caller", "operator"}),
    "admin": frozenset({"viewer", "caller", "operator", "admin"}),
}
PREFIX: Final = "rg_"
_LETTERS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_RANDOM_LETTERS: Final = 30  # 178 bits
_CHECK_LETTERS: Final = 6

KNOWN_SECONDS: Final = 5.0  # how long a key is believed without asking the store, even a revoked one
KNOWN_MAX: Final = 10_000
BAD_KEYS_PER_MINUTE: Final = 100  # from one address
ADDRESSES_MAX: Final = 10_000


class Caller(msgspec.Struct, frozen=True):
    """An authenticated caller. `id` is that of its key; `owner` owns what it creates: its team, else its key."""

    id: str
    name: str
    role: Role
    owner: str
    team: str | None = None
    grant: Grant = EVERYTHING


LOCAL: Final = Caller("local", "local", "admin", "local")  # the one caller of `[auth] mode = "off"`


def make_key(name: str, role: Role, now: float) -> tuple[KeyRow, str]:
    """A new key: the row to store, and the key to show once."""
    body = "".join(secrets.choice(_LETTERS) for _ in range(_RANDOM_LETTERS))
    key = PREFIX + body + _checksum(body)
    key_id = "key_" + secrets.token_hex(12)
    row = KeyRow(id=key_id, name=name, role=role, digest=_digest(key), hint=key[-4:], created_at=now)
    return row, key


def _fingerprint(authorization: str) -> bytes:
    return hashlib.sha256(authorization.encode("utf-8", "surrogateescape")).digest()


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def _checksum(body: str) -> str:
    number, letters = zlib.crc32(body.encode()), ""
    for _ in range(_CHECK_LETTERS):
        number, index = divmod(number, len(_LETTERS))
        letters += _LETTERS[index]
    return letters


def is_well_formed(key: str) -> bool:
    """Whether this can be a key at all: prefix, length, checksum. A typo needs no look into the store."""
    body, check = key[len(PREFIX) : -_CHECK_LETTERS], key[-_CHECK_LETTERS:]
    return (
        key.startswith(PREFIX)
        and key.isascii()
        and len(body) == _RANDOM_LETTERS
        and secrets.compare_digest(check, _checksum(body))
    )


class Door:
    """Turns a request's Authorization header into a Caller. `now` is a monotonic clock in seconds."""

    def __init__(self, store: Store, now: Callable[[], float], *, is_open: bool) -> None:
        self._store, self._now, self.is_open = store, now, is_open
        self._known: dict[bytes, tuple[Caller, float]] = {}  # by the digest of the whole header
        self._bad: dict[str, Rate] = {}

    def known(self, authorization: str) -> Caller | None:
        """Who came with this header a moment ago; None says nothing."""
        found = self._known.get(_fingerprint(authorization))
        return found[0] if found is not None and self._now() < found[1] else None

    async def caller(self, authorization: str, address: str) -> Caller:
        """The caller. Raises Problem: authentication_failed, or rate_limited after too many bad keys."""
        if self.is_open:
            return LOCAL
        found = await self.recognised(authorization)
        if found is not None:
            return found
        self._known.pop(_fingerprint(authorization), None)
        raise self._refused(address)

    async def recognised(self, authorization: str) -> Caller | None:
        """Who comes with this header; None says nothing, and counts nothing."""
        known = self.known(authorization)
        if known is not None:
            return known
        scheme, _, key = authorization.partition(" ")
        key = key.strip()
        if scheme.lower() == "bearer" and is_well_formed(key):
            digest = _digest(key)
            row = await self._store.key_find(digest)
            if row is not None and secrets.compare_digest(row.digest, digest):
                return self._remember(_fingerprint(authorization), row)
        return None

    def _remember(self, given: bytes, row: KeyRow) -> Caller:
        # Interned, because each of the caller's videos keeps the id.
        key_id = sys.intern(row.id)
        caller = Caller(key_id, row.name, msgspec.convert(row.role, Role), key_id)
        if len(self._known) >= KNOWN_MAX:
            self._known.clear()
        self._known[given] = (caller, self._now() + KNOWN_SECONDS)
        return caller

    def _refused(self, address: str) -> Problem:
        if len(self._bad) >= ADDRESSES_MAX:
            self._bad.clear()
        rate = self._bad.setdefault(address, Rate(BAD_KEYS_PER_MINUTE))
        if not rate.take(self._now()):
            detail = "Too many wrong keys came from this address; wait a minute."
            return Problem("rate_limited", detail, headers={"Retry-After": "60"})
        detail = (
            "Send a key of this gateway: `Authorization: Bearer rg_...`. "
            "An operator makes one: reelgate keys create NAME"
        )
        return Problem("authentication_failed", detail, headers={"WWW-Authenticate": "Bearer"})


def operator(caller: Caller) -> str:
    """Who gave an order, as timelines, stored orders and the log keep it."""
    return f"operator {caller.name} ({caller.id})"


def require(caller: Caller, role: Role) -> None:
    """Raises Problem permission_denied unless the caller's role includes `role`."""
    if role not in MAY[caller.role]:
        detail = f"This needs the role {role}; this key has the role {caller.role}."
        raise Problem("permission_denied", detail)


def check_same_site(host: str, origin: str | None) -> None:
    """Where no key is asked for, raises Problem for what a web page of elsewhere sends by somebody's browser.

    Such a page may reach us by a name of its own (`Host`); its browser says where it is from (`Origin`).
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
        is_ours = name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        is_ours = False
    if not is_ours or origin not in (None, f"http://{host}"):
        detail = "With [auth] mode = off only this machine may call, by a loopback name."
        raise Problem("permission_denied", detail)
