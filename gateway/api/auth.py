"""Who is calling: keys, their roles, and the guard that every route passes. Deny by default.

A key is looked up by the SHA-256 of the whole of it; the key itself is stored nowhere, and what is wrong with
it is not told. Not held here: which role and scope a route needs (each route says so in its `opt`), how
a key is made (`gateway.core.keys`), budgets.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import msgspec

from gateway.api.guests import Guests
from gateway.core.admission import Rate
from gateway.core.grants import EVERYTHING, Grant
from gateway.core.keys import (
    SCOPES,
    Role,
    Scope,
    digest_of,
    grant_of,
    hint_of,
    is_well_formed,
    new_key_id,
    new_secret,
    owner_of,
)
from gateway.errors import Problem
from gateway.settings import Team
from gateway.storage import news
from gateway.storage.db import StorageError
from gateway.storage.keys import GOOD_MAX
from gateway.storage.rows import KeyRow
from gateway.storage.store import Store

if TYPE_CHECKING:
    from litestar.types import Receive, ReceiveMessage  # whoever only makes a key need not import it

# What a role may do, by the role that a route asks for.
MAY: Final[dict[Role, frozenset[Role]]] = {
    "viewer": frozenset({"viewer"}),
    "caller": frozenset({"viewer", "caller"}),
    "operator": frozenset({"viewer", "caller", "operator"}),
    "admin": frozenset({"viewer", "caller", "operator", "admin"}),
}

# A key that was revoked is refused after 5 s on every replica, whatever news are lost: so long it is believed
# without asking the store, and so often those are looked up whose requests are still open.
KNOWN_SECONDS: Final = 3.0
LOOK_SECONDS: Final = 2.0
USED_SECONDS: Final = 60.0  # between writing down when keys were used last
KNOWN_MAX: Final = 10_000
BAD_KEYS_PER_MINUTE: Final = 100  # from one address, of IPv6 from one /64
ADDRESSES_MAX: Final = 10_000


class Caller(msgspec.Struct, frozen=True):
    """An authenticated caller. `id` is that of its key; `owner` owns what it creates: its team, else its key.

    `scopes` None: all that its role may. `digest` is that of the secret it came with.
    """

    id: str
    name: str
    role: Role
    owner: str
    team: str | None = None
    grant: Grant = EVERYTHING
    scopes: frozenset[str] | None = None
    digest: str = ""


LOCAL: Final = Caller("local", "local", "admin", "local")  # the one caller of `[auth] mode = "off"`


def make_key(name: str, role: Role, now: float) -> tuple[KeyRow, str]:
    """A new key: the row to store, and the secret to show once."""
    secret = new_secret()
    row = KeyRow(
        id=new_key_id(), name=name, role=role, digest=digest_of(secret), hint=hint_of(secret), created_at=now
    )
    return row, secret


def _fingerprint(authorization: str) -> bytes:
    return hashlib.sha256(authorization.encode("utf-8", "surrogateescape")).digest()


class Door:
    """Turns a request's Authorization header into a Caller. `now` is Unix time in seconds, never back.

    `teams` are those of the configuration in force.
    """

    def __init__(
        self, store: Store, now: Callable[[], float], *, is_open: bool,
        teams: Callable[[], Mapping[str, Team]] = dict,
    ) -> None:
        self._store, self._now, self.is_open, self._teams = store, now, is_open, teams
        self._known: dict[bytes, tuple[Caller, float]] = {}  # by the digest of the whole header
        self._bad: dict[str, Rate] = {}
        self.guests = Guests()
        self._used: dict[str, float] = {}
        self._written_at = float("-inf")
        self._news = asyncio.Event()
        if store.is_shared:
            store.hear(self._heard)

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
        if self.is_open:  # a key says nothing where everybody is LOCAL
            return None
        known = self.known(authorization)
        if known is not None:
            return known
        scheme, _, key = authorization.partition(" ")
        key = key.strip()
        if scheme.lower() == "bearer" and is_well_formed(key):
            digest, asked_at = digest_of(key), self._now()
            row = await self._store.keys.find(digest, asked_at)
            if row is not None and secrets.compare_digest(row.digest, digest):
                return self._remember(_fingerprint(authorization), row, asked_at)
        return None

    def _remember(self, given: bytes, row: KeyRow, asked_at: float) -> Caller:
        # Interned, because each of the caller's videos keeps the id.
        key_id, owner = sys.intern(row.id), sys.intern(owner_of(row.id, row.team))
        caller = Caller(
            key_id, row.name, msgspec.convert(row.role, Role), owner, row.team,
            grant_of(row.grant, row.team, self._teams()),
            None if row.scopes is None else frozenset(row.scopes), row.digest,
        )
        if len(self._known) >= KNOWN_MAX:
            self._known.clear()
        until = asked_at + KNOWN_SECONDS
        self._known[given] = (caller, until if row.expires_at is None else min(until, row.expires_at))
        self._used[key_id] = asked_at
        return caller

    def while_good(self, receive: Receive, authorization: str, address: str) -> Receive:
        """`receive`; at the end of a body that was long in coming it looks at the key again.

        Raises Problem as `caller`.
        """
        believed_until = self._now() + KNOWN_SECONDS

        async def received() -> ReceiveMessage:
            message = await receive()
            is_whole = message["type"] == "http.request" and not message["more_body"]
            if is_whole and self._now() >= believed_until:
                await self.caller(authorization, address)
            return message

        return received

    # --- keys that end --------------------------------------------------------------------------------

    def changed(self, key_id: str | None) -> None:
        """Look up a key again that was revoked or rotated; None: any may have been."""
        gone = [given for given, (caller, _) in self._known.items() if key_id in (None, caller.id)]
        for given in gone:
            del self._known[given]
        self._news.set()

    def _heard(self, text: str | None) -> None:
        told = None if text is None else news.read(text)
        if text is None:
            self.changed(None)
        elif isinstance(told, news.KeyChanged):
            self.changed(told.id)

    async def look(self, failed: Callable[[StorageError], None]) -> None:
        """Send away whose key has ended, and write down which keys were used, until cancelled.

        `failed` is told when the database does not answer; then it is tried again.
        """
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._news.wait()
            self._news.clear()
            try:
                await self._look_at_guests()
                await self._write_uses()
            except StorageError as error:
                failed(error)

    async def _look_at_guests(self) -> None:
        digests = self.guests.digests
        for first in range(0, len(digests), GOOD_MAX):
            some = digests[first : first + GOOD_MAX]
            good = await self._store.keys.good(some, self._now())
            for digest in some:
                if digest not in good:
                    self._drop(digest)
                    self.guests.put_out(digest)

    def _drop(self, digest: str) -> None:
        for given in [given for given, (caller, _) in self._known.items() if caller.digest == digest]:
            del self._known[given]

    async def _write_uses(self) -> None:
        now = self._now()
        if not self._used or now - self._written_at < USED_SECONDS:
            return
        uses, self._used = self._used, {}
        try:
            await self._store.keys.used(list(uses.items()))
        except StorageError:
            self._used = uses | self._used
            raise
        self._written_at = now

    # --- refusals -------------------------------------------------------------------------------------

    def _refused(self, address: str) -> Problem:
        whose = _network_of(address)
        if whose not in self._bad and len(self._bad) >= ADDRESSES_MAX:
            del self._bad[next(iter(self._bad))]
        rate = self._bad.setdefault(whose, Rate(BAD_KEYS_PER_MINUTE))
        if not rate.take(self._now()):
            detail = "Too many wrong keys came from this address; wait a minute."
            return Problem("rate_limited", detail, headers={"Retry-After": "60"})
        return no_key()


def _network_of(address: str) -> str:
    """Under what an address is counted: of IPv6 its /64, all of which one machine may have."""
    try:
        found = ip_address(address)
    except ValueError:
        return address
    return address if found.version == 4 else f"{int(found) >> 64:x}::/64"


def no_key() -> Problem:
    """The refusal of whoever brings no good key, whatever is wrong with it."""
    detail = (
        "Send a key of this gateway: `Authorization: Bearer rg_...`. "
        "An operator makes one: reelgate keys create NAME"
    )
    return Problem("authentication_failed", detail, headers={"WWW-Authenticate": "Bearer"})


def operator(caller: Caller) -> str:
    """Who gave an order, as timelines, stored orders and the log keep it."""
    return f"operator {caller.name} ({caller.id})"


def require(caller: Caller, opt: Mapping[str, Any]) -> None:
    """Raises Problem permission_denied unless the caller has the role and scope in a route's `opt`."""
    role: Role = opt["role"]
    scope: Scope = opt["scope"]
    if role not in MAY[caller.role]:
        detail = f"This needs the role {role}; this key has the role {caller.role}."
        raise Problem("permission_denied", detail)
    if caller.scopes is not None and scope not in caller.scopes:
        has = ", ".join(sorted(caller.scopes)) or "none"
        raise Problem("permission_denied", f"This needs the scope {scope}; this key has: {has}.")


def is_declared(opt: Mapping[str, Any]) -> bool:
    """Whether a route says who may use it: everybody, or a role with a scope. `signed` goes beside these."""
    if opt.get("public") is True:
        return "role" not in opt and "scope" not in opt
    return opt.get("role") in MAY and opt.get("scope") in SCOPES


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
