"""`python -m deploy.configuration_table` writes `configuration.md`: every key, generated from the Structs.

Held here: how the tables are made. Not held here: what stands in them. Types, defaults and ranges are those
of `gateway.settings`, the words those of `config.example.toml`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

from gateway.effective import RELOADED, spelled
from gateway.settings import Price, ProviderSettings, Settings, Team
from gateway.values import duration

DEPLOY: Final = Path(__file__).parent
TABLE: Final = DEPLOY / "configuration.md"
_Key: TypeAlias = tuple[str, str]  # section, name

_HEAD: Final = """# The configuration

Made by `make reference` from the Structs that read the file, in the words of `config.example.toml`.

One TOML file, strict: an unknown key is refused with the nearest right spelling. `reelgate check FILE` says
everything that is wrong at once, and with `--show` every value in force and where it comes from.

The file is followed while `serve` runs: on SIGHUP at once, and within seconds after it, or the file of a
secret, has changed and stands still; a link that is swapped, as Kubernetes does with a ConfigMap, is a
change. All of a new file is in force, or nothing of it: of a bad one the log says everything
(`reload_refused`), and the old one stays. Keys marked *restart* keep their old value until then; the log
names those that wait (`reload_needs_restart`). A provider that is removed, or retired, takes nothing new.
What a retired one has is followed to its end; what a removed one has, only by the process that had it
(`provider_missing` in the log counts it). So set `retire_on` instead, or restart that process only once
`reelgate providers list` shows no job there. One that has jobs cannot change `adapter` or `base_url`: their
ids would mean nothing there.

`reelgate_config_reloads_total`, `reelgate_config_last_reload_successful` and
`reelgate_config_last_reload_success_timestamp_seconds` tell the outcome.
"""
_TITLES: Final[Mapping[type[Struct], str]] = {
    ProviderSettings: "providers.NAME", Price: "providers.NAME.prices", Team: "teams.NAME",
}
_NAMED: Final = {"providers.highway": "providers.NAME", "teams.video": "teams.NAME"}  # in the example
_TABLE: Final = re.compile(r"(?:# )?\[([\w.]+)\]")
_SETTING: Final = re.compile(r"(?:# )?([a-z_]+) = ")
_ADAPTERS: Final = {"base_url": "the adapter's, or required", "offerings": "the adapter's"}


def meanings(text: str) -> dict[_Key, str]:
    """What the example says of each key: the comment above it, or above the keys that it begins."""
    found: dict[_Key, str] = {}
    section, comment, is_open = "", list[str](), False
    for line in text.splitlines():
        if table := _TABLE.fullmatch(line):
            inner = table[1].split(".")
            section = ".".join(inner[:2])
            if len(inner) == 3:
                found.setdefault((_NAMED[section], inner[2]), " ".join(comment))
            comment = []
        elif setting := _SETTING.match(line):
            found.setdefault((_NAMED.get(section, section), setting[1]), " ".join(comment))
            is_open = False
        elif line.startswith("# "):
            comment = [*comment, line[2:]] if is_open else [line[2:]]
            is_open = True
        else:
            comment, is_open = [], False
    return found


def _is_optional(kind: object) -> bool:
    return type(None) in get_args(kind)


def _sort(kind: object) -> tuple[str, str]:
    """What kind of value it is, and its range."""
    if _is_optional(kind):
        kind = get_args(kind)[0]
    origin, inner = get_origin(kind), get_args(kind)
    if origin is tuple:
        sort, reach = _sort(inner[0])
        return f"list: {sort}", reach
    if origin is dict:
        return f"table: {_sort(inner[1])[0]}", ""
    if origin is Literal:
        return "text", ", ".join(f'`"{one}"`' for one in inner)
    if origin is Annotated:
        return _annotated(inner[0], kind.__metadata__)  # type: ignore[attr-defined]  # an Annotated has it
    names: dict[object, str] = {bool: "`true` or `false`", int: "number", float: "number", str: "text"}
    return names.get(kind, "row" if kind is Price else "text"), ""


def _annotated(inner: object, metadata: tuple[Any, ...]) -> tuple[str, str]:
    for one in metadata:
        if isinstance(one, Meta):
            return _sort(inner)[0], _range(one)
        if isinstance(one, duration):
            return "duration", f"{one.least} to {one.most}"
        if callable(one):
            return _words(one), ""
    return _sort(inner)


def _range(meta: Meta) -> str:
    low = f"above {meta.gt}" if meta.gt is not None else None if meta.ge is None else f"{meta.ge}"
    if low is not None:
        return f"{low} {'and at most' if meta.gt is not None else 'to'} {meta.le}"
    if meta.pattern is not None:
        return f"`{meta.pattern}`"
    return "not empty" if meta.min_length == 1 else ""


def _words(reader: Callable[..., object]) -> str:
    """The first sentence of what a reader says of itself."""
    text = " ".join((inspect.getdoc(reader) or "").split())
    return re.split(r"\.(?: |$)|; ", text)[0]


def _default(section: type[Struct], field: msgspec.structs.FieldInfo) -> str:
    if section is ProviderSettings and field.name in _ADAPTERS:
        return _ADAPTERS[field.name]
    text = next((one for one in getattr(field.type, "__metadata__", ()) if isinstance(one, str)), None)
    if text is not None:
        return f'`"{text}"`'
    if field.required:
        return "required"
    default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    return "-" if default in (None, (), {}) else f"`{spelled(default, field.type)}`"


def sections() -> Iterator[tuple[str, type[Struct]]]:
    """Every table that a file may have, with the Struct that reads it."""
    yield "", Settings
    for field in msgspec.structs.fields(Settings):
        for kind in (field.type, *get_args(field.type)):
            if isinstance(kind, type) and issubclass(kind, Struct) and kind not in _TITLES:
                yield field.name, kind
    for kind, title in _TITLES.items():
        yield title, kind


def _fields(section: type[Struct]) -> list[msgspec.structs.FieldInfo]:
    """Its keys: no tables of their own, and not the name that a table has."""
    inside = {name.partition(".")[0] for name, _ in sections() if section is Settings}
    own = {"name"} if section is ProviderSettings else set()
    return [field for field in msgspec.structs.fields(section) if field.name not in inside | own]


def _row(title: str, section: type[Struct], field: msgspec.structs.FieldInfo, means: str) -> str:
    sort, reach = _sort(field.type)
    first = title.partition(".")[0] or field.name
    applies = "reload" if first in RELOADED else "restart"
    cells = (f"`{field.name}`", sort, _default(section, field), reach, applies, means)
    return f"| {' | '.join(cell.replace('|', '&#124;') or '-' for cell in cells)} |"


def text() -> str:
    """All of it."""
    words = meanings((DEPLOY / "config.example.toml").read_text("utf-8"))
    parts = [_HEAD]
    for title, section in sections():
        parts.append(f"\n## {f'`[{title}]`' if title else 'At the top'}\n\n")
        parts.append("| key | value | default | range | applies at | meaning |\n|---|---|---|---|---|---|\n")
        before = ""
        for field in _fields(section):
            means = words.get((title, field.name), "see `prices`" if section is Price else "")
            parts += [_row(title, section, field, "as above" if means == before else means), "\n"]
            before = means
    return "".join(parts)


if __name__ == "__main__":
    TABLE.write_text(text(), "utf-8")
