"""The configuration in force as a list: every value by its path, its origin, and what a reload changed.

No value of a secret leaves this module. Not held here: what the values mean (`gateway.settings`), how the
list is printed (`gateway.__main__`).
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from decimal import Decimal
from types import NoneType
from typing import Any, Final, TypeAlias, get_args

import msgspec
from msgspec import Struct

from gateway.settings import Price, ProviderSettings, Settings
from gateway.values import Address, FilesUrl, Secret, StoreUrl, duration, join
from providers.spec import AdapterInfo, Offering

HIDDEN: Final = "***"
RELOADED: Final = ("default_model", "log", "routing", "providers", "teams")  # all else is read at the start
_TABLES: Final = ("providers", "teams")  # of tables with names of their own
_FILLED_IN: Final = ("base_url", "offerings")  # by a provider's adapter, where the file has none
_AWS: Final = {  # what a bucket's library looks for where the file has none
    "endpoint": "AWS_ENDPOINT_URL", "region": "AWS_REGION", "access_key_id": "AWS_ACCESS_KEY_ID",
    "secret_access_key": "AWS_SECRET_ACCESS_KEY",
}  # fmt: skip
_VALUES: Final = (AdapterInfo, Offering, Price, Address, FilesUrl, StoreUrl)  # of one value each
_KEY: Final = r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'"""
_KEYS: Final = rf"(?:{_KEY})(?:\s*\.\s*(?:{_KEY}))*"
_HEADER: Final = re.compile(rf"\s*\[{{1,2}}\s*({_KEYS})\s*\]{{1,2}}\s*(?:#.*)?")
_SETTING: Final = re.compile(rf"\s*({_KEYS})\s*=")
# Comments and texts; of a long one, which may hold anything, `long` is the whole.
_TEXTS: Final = re.compile(r"""
    \#[^\n]*
  | (?P<long> "{3} (?: \\. | [^\\] )*? "{3} (?!") | '{3} .*? '{3} (?!') )
  | " (?: \\. | [^"\\\n] )* "
  | ' [^'\n]* '
""", re.DOTALL | re.VERBOSE)
_UNITS: Final = (("d", Decimal(86_400)), ("h", Decimal(3_600)), ("m", Decimal(60)), ("s", Decimal(1)))
_Place: TypeAlias = tuple[str, ...]


class Value(Struct, frozen=True):
    """One value, as a file would spell it. `line` is where the file has it, None where it has none."""

    path: str
    value: str
    origin: str
    line: int | None = None


class Changes(Struct, frozen=True):
    """What a reload found: keys with other values, tables that are new or gone, keys that need a restart."""

    changed: list[str]
    added: list[str]
    removed: list[str]
    waiting: list[str]


def effective(settings: Settings, text: str) -> list[Value]:
    """Every value of these settings, in their order; `text` is the file that they were read from."""
    tree, lines = tomllib.loads(text), _lines(text)
    return [
        Value(_path(place), spelled(value, kind), *_origin(settings, place, tree, lines))
        for place, value, kind in _leaves(settings, ())
    ]


def changes(old: Settings, new: Settings) -> Changes:
    """How `new` differs from `old`, by paths alone."""
    before, after = ({place: value for place, value, _ in _leaves(one, ())} for one in (old, new))
    tables = {name: (getattr(old, name).keys(), getattr(new, name).keys()) for name in _TABLES}
    added = [(name, one) for name, (was, now) in tables.items() for one in now if one not in was]
    removed = [(name, one) for name, (was, now) in tables.items() for one in was if one not in now]
    differing = [
        place for place in dict.fromkeys((*before, *after))
        if place[:2] not in (*added, *removed) and before.get(place) != after.get(place)
    ]
    if _order(old, new) != _order(new, old):
        differing.append(("providers",))  # their order is their priority
    return Changes(
        [_path(place) for place in differing if place[0] in RELOADED],
        [_path(place) for place in added], [_path(place) for place in removed],
        [_path(place) for place in differing if place[0] not in RELOADED],
    )


def _order(one: Settings, other: Settings) -> list[str]:
    return [name for name in one.providers if name in other.providers]


def in_force(old: Settings, new: Settings) -> Settings:
    """The new settings, but for what only a start can change."""
    kept = [name for name in Settings.__struct_fields__ if name not in RELOADED]
    return msgspec.structs.replace(new, **{name: getattr(old, name) for name in kept})


def _leaves(section: Struct, above: _Place) -> Iterator[tuple[_Place, object, object]]:
    """Every single value below a section: where it is, what, and of which declared type."""
    for field in msgspec.structs.fields(type(section)):
        if isinstance(section, ProviderSettings) and field.name == "name":
            continue  # it is the table's own
        value, place = getattr(section, field.name), (*above, field.name)
        if isinstance(value, dict):
            for name, one in value.items():
                if _is_section(one):
                    yield from _leaves(one, (*place, name))
                else:
                    yield (*place, name), one, get_args(field.type)[-1]
        elif _is_section(value):
            yield from _leaves(value, place)
        else:
            yield place, value, field.type


def _is_section(value: object) -> bool:
    return isinstance(value, Struct) and not isinstance(value, _VALUES)


def _path(place: _Place) -> str:
    path = ""
    for key in place:
        path = join(path, key)
    return path


# --- values -----------------------------------------------------------------------------------------------

def _price(price: Price) -> str:
    said = {name: getattr(price, name) for name in price.__struct_fields__}
    parts = [f"{name} = {spelled(one)}" for name, one in said.items() if one is not None]
    return f"{{ {', '.join(parts)} }}"


def _files(url: FilesUrl) -> str:
    places = {"off": "off", "file": f"file:{url.path}", "s3": f"s3://{url.bucket}/{url.prefix}"}
    return _quoted(places[url.kind])


_SPELLINGS: Final[tuple[tuple[type, Callable[[Any], str]], ...]] = (  # the first that fits; else in quotes
    (NoneType, lambda value: "none"),
    (bool, lambda value: str(value).lower()),
    (int, str),
    (float, lambda value: repr(value).removesuffix(".0")),
    (date, str),
    (Secret, lambda value: HIDDEN),
    (Decimal, lambda value: f'"{value:f}"'),
    (AdapterInfo, lambda value: f'"{value.name}"'),
    (Offering, lambda value: f'"{value.slug}"'),
    (StoreUrl, lambda value: _quoted(value.shown if value.dsn else f"sqlite:{value.shown}")),
    (FilesUrl, _files),
    (Price, _price),
    (tuple, lambda value: f"[{', '.join(map(spelled, value))}]"),
)


def spelled(value: object, kind: object = None) -> str:
    """A value as TOML spells it; absent ones as `none`, secrets hidden."""
    if isinstance(value, float) and any(isinstance(one, duration) for one in _metadata(kind)):
        return f'"{_duration(value)}"'
    return next((spell(value) for known, spell in _SPELLINGS if isinstance(value, known)), _quoted(value))


def _duration(seconds: float) -> str:
    exact = Decimal(repr(seconds))
    whole = ((unit, size) for unit, size in _UNITS if exact and exact % size == 0)
    unit, size = next(whole, ("ms", Decimal("0.001")))
    number = f"{exact / size:f}"
    return f"{number.rstrip('0').rstrip('.') if '.' in number else number}{unit}"


def _quoted(value: object) -> str:
    return json.dumps(str(value), ensure_ascii=False)


def _metadata(kind: object) -> tuple[Any, ...]:
    """What an Annotated type says besides its type, also where None is allowed beside it."""
    inner = get_args(kind)
    found = getattr(kind, "__metadata__", ()) or (getattr(inner[0], "__metadata__", ()) if inner else ())
    return tuple(found)


# --- origins ----------------------------------------------------------------------------------------------

def _origin(
    settings: Settings, place: _Place, tree: Mapping[str, object], lines: Mapping[_Place, int]
) -> tuple[str, int | None]:
    raw: object = tree
    for key in place:
        if not isinstance(raw, Mapping) or key not in raw:
            return _origin_of_absent(settings, place), None
        raw = raw[key]
    written = next((place[:size] for size in range(len(place), 0, -1) if place[:size] in lines), None)
    outside = ", ".join(_outside(raw))
    return outside or "file", None if written is None else lines[written]


def _origin_of_absent(settings: Settings, place: _Place) -> str:
    if place[0] == "providers" and place[-1] in _FILLED_IN:
        return f"adapter {settings.providers[place[1]].adapter.name}"
    if place[0] == "files" and place[-1] in _AWS and settings.files.url.kind == "s3":
        return f"environment variable {_AWS[place[-1]]}, if set"
    return "default"


def _outside(raw: object) -> Iterator[str]:
    """The variables and files that a value names in place of itself."""
    for one in raw if isinstance(raw, list) else [raw]:
        if isinstance(one, Mapping):
            for where, label in (("env", "environment variable"), ("file", "secret file")):
                if isinstance(one.get(where), str):
                    yield f"{label} {one[where]}"


def _lines(text: str) -> dict[_Place, int]:
    """Where each table and key begins. What only looks like one, within a long text, is no key of ours."""
    found: dict[_Place, int] = {}
    table: _Place = ()
    for number, line in enumerate(_TEXTS.sub(_without_long, text).split("\n"), 1):
        if header := _HEADER.fullmatch(line):
            table = _parts(header[1])
            found.setdefault(table, number)
        elif setting := _SETTING.match(line):
            found.setdefault((*table, *_parts(setting[1])), number)
    return found


def _without_long(found: re.Match[str]) -> str:
    """A comment or a text as it is, of a long one only its lines."""
    return "\n" * found["long"].count("\n") if found["long"] else found[0]


def _parts(keys: str) -> _Place:
    return tuple(key[1:-1] if key[0] in "\"'" else key for key in re.findall(_KEY, keys))
