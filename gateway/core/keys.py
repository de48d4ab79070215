"""A caller's key: how it is made and told from a typo, what roles and scopes there are, what a team may have.

A key is `rg_`, 178 random bits and a checksum of them. Not held here: who has which (`gateway.storage.keys`),
who may do what by it (`gateway.api.auth`).
"""

from __future__ import annotations

import hashlib
import secrets
import zlib
from collections.abc import Mapping, Sequence
from typing import Final, Literal, TypeAlias, get_args

from msgspec.structs import asdict

from gateway.core.grants import Grant, Limits
from gateway.settings import Team

Role: TypeAlias = Literal["viewer", "caller", "operator", "admin"]
# What a key may be narrowed to. A route asks for one of these beside its role.
Scope: TypeAlias = Literal[
    "videos:read", "videos:write", "videos:resolve", "files", "webhooks", "usage:read", "providers",
    "spending", "keys", "audit",
]
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)

PREFIX: Final = "rg_"
HINT_CHARS: Final = 4
OVERLAP_SECONDS: Final = 86_400  # for which a key's old secret is taken beside the new one
OVERLAP_MAX_SECONDS: Final = 30 * 86_400
_LETTERS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_RANDOM_LETTERS: Final = 30  # 178 bits
_CHECK_LETTERS: Final = 6


def new_secret() -> str:
    """The text of a new key, to be shown once."""
    body = "".join(secrets.choice(_LETTERS) for _ in range(_RANDOM_LETTERS))
    return PREFIX + body + _checksum(body)


def new_key_id() -> str:
    """An id for a key; it is no secret."""
    return "key_" + secrets.token_hex(12)


def digest_of(key: str) -> str:
    """The SHA-256 of a whole key, hexadecimal: all that is kept of it."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def hint_of(key: str) -> str:
    """The end of a key, by which people know it again."""
    return key[-HINT_CHARS:]


def is_well_formed(key: str) -> bool:
    """Whether this can be a key at all: prefix, length, checksum. A typo needs no look into the store."""
    body, check = key[len(PREFIX) : -_CHECK_LETTERS], key[-_CHECK_LETTERS:]
    return (
        key.startswith(PREFIX)
        and key.isascii()
        and len(body) == _RANDOM_LETTERS
        and secrets.compare_digest(check, _checksum(body))
    )


def _checksum(body: str) -> str:
    number, letters = zlib.crc32(body.encode()), ""
    for _ in range(_CHECK_LETTERS):
        number, index = divmod(number, len(_LETTERS))
        letters += _LETTERS[index]
    return letters


def owner_of(key_id: str, team: str | None) -> str:
    """Who owns what is created by a key: its team, else the key."""
    return key_id if team is None else f"team:{team}"


def limits_of_team(team: Team) -> Limits:
    """The most that the keys of a team may have together."""
    values = asdict(team)
    return Limits(**{name: values[name] for name in Limits.__struct_fields__})


def grant_of(key: Grant, team: str | None, teams: Mapping[str, Team]) -> Grant:
    """What a caller by a key may use: what its own grant and its team's both allow.

    Of a team that is not configured nobody knows what it may spend, so its keys may order nothing.
    """
    if team is None:
        return key
    found = teams.get(team)
    if found is None:
        return Grant(providers=(), models=key.models, limits=key.limits)
    return Grant(
        providers=_both(key.providers, found.providers), models=_both(key.models, found.models),
        limits=key.limits, team_limits=limits_of_team(found),
    )


def _both(one: tuple[str, ...] | None, other: Sequence[str] | None) -> tuple[str, ...] | None:
    if one is None or other is None:
        return one if other is None else tuple(other)
    return tuple(name for name in one if name in other)

