"""What a key may be asked to be, and what is shown of one: never its digest, its secret once.

For `/v1/keys` and for the command line. Not held here: routes (`keys`), rows (`gateway.storage.keys`).
"""

from __future__ import annotations

from collections.abc import Collection
from decimal import Decimal
from typing import Annotated, Any, Final, Literal, TypeAlias

from msgspec import Meta, Struct
from msgspec.structs import asdict, replace

from gateway.api.auth import make_key
from gateway.api.reading import nearest, refuse, shortened
from gateway.core.grants import EVERYTHING, Count, Currency, Grant, Limits
from gateway.core.keys import OVERLAP_MAX_SECONDS, OVERLAP_SECONDS, SCOPES, Role, Scope
from gateway.errors import FieldError
from gateway.settings import Settings
from gateway.storage.audit import Facts
from gateway.storage.rows import KeyRow

LIFE_MAX_SECONDS: Final = 10 * 366 * 86_400
NAMES_MAX: Final = 100
_Amount: TypeAlias = Annotated[
    str, Meta(pattern=r"^[0-9]{1,9}(\.[0-9]{1,9})?$", description="a decimal text")
]
_Names: TypeAlias = Annotated[
    list[Annotated[str, Meta(min_length=1, max_length=128)]], Meta(min_length=1, max_length=NAMES_MAX)
]


class LimitsBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The most that a key may have; null: no limit. Money by the day and month (UTC) of the create."""

    requests_per_minute: Count | None = None
    max_in_flight: Count | None = None
    max_queued: Count | None = None
    money_per_day: _Amount | None = None
    money_per_month: _Amount | None = None
    currency: Currency = "USD"


class KeyBody(Struct, kw_only=True, forbid_unknown_fields=True):
    """A key to make. Null: all scopes of its role, all providers, all models, no team, no limit, no end."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    role: Role = "caller"
    scopes: Annotated[list[Scope], Meta(min_length=1, max_length=len(SCOPES))] | None = None
    team: Annotated[str, Meta(max_length=64)] | None = None
    providers: _Names | None = None
    models: _Names | None = None
    limits: LimitsBody = LimitsBody()
    expires_in: Annotated[int, Meta(ge=1, le=LIFE_MAX_SECONDS, description="seconds")] | None = None


class TurnBody(Struct, forbid_unknown_fields=True, kw_only=True):
    """For how many seconds the old secret is taken beside the new one; 0: not at all."""

    overlap: Annotated[int, Meta(ge=0, le=OVERLAP_MAX_SECONDS)] = OVERLAP_SECONDS


class KeyObject(Struct, frozen=True, kw_only=True):
    """A key; `hint` is the end of its secret. `overlap_until`: until when the secret before is taken, too.

    Times in Unix seconds; `last_used_at` is behind by a minute at most.
    """

    id: str
    object: Literal["key"] = "key"
    name: str
    role: Role
    scopes: tuple[str, ...] | None
    team: str | None
    providers: tuple[str, ...] | None
    models: tuple[str, ...] | None
    limits: LimitsBody
    hint: str
    created_at: int
    expires_at: int | None
    overlap_until: int | None
    last_used_at: int | None
    revoked_at: int | None


class NewKeyObject(KeyObject, frozen=True, kw_only=True):
    """A key with its secret, which is shown this once."""

    key: str


def check_body(body: KeyBody, settings: Settings) -> None:
    """Raises Problem with every name that cannot be shown, or that the configuration does not have."""
    models = {offering.model for one in settings.providers.values() for offering in one.offerings}
    errors = [] if body.name.isprintable() else [FieldError("/name", "Holds what cannot be printed.")]
    named: list[tuple[str, str, Collection[str]]] = [
        *((f"/providers/{at}", name, settings.providers) for at, name in enumerate(body.providers or ())),
        *((f"/models/{at}", name, models) for at, name in enumerate(body.models or ())),
        *([] if body.team is None else [("/team", body.team, settings.teams)]),
    ]
    errors += [
        FieldError(pointer, f"{shortened(name)!r} is not configured.{nearest(name, known)}")
        for pointer, name, known in named if name not in known
    ]
    refuse(errors)


def key_of(body: KeyBody, now: float) -> tuple[KeyRow, str]:
    """The row of a new key, and its secret, to be shown once."""
    row, secret = make_key(body.name, body.role, now)
    limits = asdict(body.limits)
    for name in ("money_per_day", "money_per_month"):
        limits[name] = None if limits[name] is None else Decimal(limits[name])
    grant = Grant(
        providers=_unique(body.providers), models=_unique(body.models), limits=Limits(**limits)
    )
    expires_at = None if body.expires_in is None else now + body.expires_in
    return replace(
        row, scopes=_unique(body.scopes), team=body.team, grant=grant, expires_at=expires_at
    ), secret


def turned(row: KeyRow, now: float) -> tuple[KeyRow, str]:
    """The row of a key with a new secret, and that secret, to be shown once."""
    other, secret = make_key(row.name, "viewer", now)
    return replace(row, digest=other.digest, hint=other.hint), secret


def beyond(own: KeyRow, other: KeyRow) -> list[str]:
    """In what a key may more than one that would give it; none where that one is not bounded itself."""
    if own.scopes is None and own.grant == EVERYTHING:
        return []
    lists = {
        "scopes": (own.scopes, other.scopes), "providers": (own.grant.providers, other.grant.providers),
        "models": (own.grant.models, other.grant.models),
    }
    found = [name for name, (most, has) in lists.items()
             if most is not None and (has is None or not set(most).issuperset(has))]
    limits, has_limits = asdict(own.grant.limits), asdict(other.grant.limits)
    is_other_money = limits.pop("currency") != has_limits.pop("currency")
    if is_other_money and own.grant.limits.has_money:
        found.append("currency")
    found += [name for name, most in limits.items()
              if most is not None and (has_limits[name] is None or has_limits[name] > most)]
    return found if own.team in (None, other.team) else [*found, "team"]


def _unique(names: list[Any] | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(dict.fromkeys(names))


def shown(row: KeyRow) -> KeyObject:
    """The key as it is shown."""
    return KeyObject(**_fields(row))


def with_secret(row: KeyRow, secret: str) -> NewKeyObject:
    """The key as it is shown once."""
    return NewKeyObject(key=secret, **_fields(row))


def _fields(row: KeyRow) -> dict[str, Any]:
    times = ("created_at", "expires_at", "overlap_until", "last_used_at", "revoked_at")
    limits: dict[str, Any] = {
        name: f"{value:f}" if isinstance(value, Decimal) else value
        for name, value in asdict(row.grant.limits).items()
    }
    return {
        "id": row.id, "name": row.name, "role": row.role, "scopes": row.scopes, "team": row.team,
        "providers": row.grant.providers, "models": row.grant.models, "limits": LimitsBody(**limits),
        "hint": row.hint,
        **{name: None if (at := getattr(row, name)) is None else int(at) for name in times},
    }


def facts(row: KeyRow) -> Facts:
    """What a record of an action says of a key."""
    told = _fields(row)
    limits: dict[str, Any] = asdict(told.pop("limits"))
    for name in ("scopes", "providers", "models"):
        told[name] = None if told[name] is None else ", ".join(told[name])
    bounds = {name: value for name, value in limits.items() if value is not None}
    return {name: value for name, value in (told | bounds).items() if value is not None and name != "id"}
