"""How a table becomes a Struct: one pass over what TOML gave, which notes every problem and goes on.

How a field is read stands in its type: `Annotated[T, reader]` names the function that makes a T of what TOML
gave, or raises ValueError; a text after it is the default as a file would spell it. The rest is msgspec's.
What could not be read is UNSET. Not held here: sections, keys and rules (`gateway.settings`), single values
(`gateway.values`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeVar, get_args, get_origin

import msgspec
from msgspec import UNSET, Struct

from gateway import values as read
from gateway.values import join, unknown

_Built = TypeVar("_Built", bound=Struct)


class Problem(Struct, frozen=True):
    """One mistake: where (`providers.highway.adapter`; empty: the whole file), and what is wrong there."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class Pass(read.Source):
    """One pass over one file, and the problems so far."""

    def __init__(
        self, folder: Path, environ: Mapping[str, str], marks: read.Marks | None = None
    ) -> None:
        super().__init__(folder, environ, marks)
        self.problems: list[Problem] = []

    def wrong(self, path: str, message: str) -> None:
        """Note a problem."""
        self.problems.append(Problem(path, message[:1].lower() + message[1:]))

    def struct(self, cls: type[_Built], raw: object, path: str, **given: object) -> _Built:
        """A `cls` of the table `raw`, UNSET where a value is missing or wrong; `given` fields are no keys."""
        fields = [field for field in msgspec.structs.fields(cls) if field.name not in given]
        names = [field.name for field in fields]
        if not isinstance(raw, dict):
            self.wrong(path, f"expected a table, got `{type(raw).__name__}`")
            return cls(**dict.fromkeys(names, UNSET), **given)
        for key in raw:
            if key not in names:
                self.wrong(join(path, key), unknown("key", key, names))
        values = dict(given)
        for field in fields:
            written = raw.get(field.name, _absent(field.type))
            if written is not UNSET:
                values[field.name] = self.value(field.type, written, join(path, field.name))
            elif field.required:
                values[field.name] = UNSET
                self.wrong(join(path, field.name), "is required")
        return cls(**values)

    def value(self, kind: object, raw: object, path: str) -> object:
        """`raw` as a `kind`, or UNSET with the problem noted."""
        if type(None) in get_args(kind):
            kind = get_args(kind)[0]
        try:
            return self._read(kind, raw, path)
        except ValueError as error:  # msgspec.ValidationError is one
            self.wrong(path, str(error))
            return UNSET

    def _read(self, kind: object, raw: object, path: str) -> object:
        if isinstance(kind, type) and issubclass(kind, Struct):
            return self.struct(kind, raw, path)
        origin, inner = get_origin(kind), get_args(kind)
        if origin is tuple:
            return self._items(inner[0], raw, path)
        if origin is dict:
            return {key: self.value(inner[1], item, join(path, key)) for key, item in read.table(raw).items()}
        if origin is Literal and isinstance(raw, str) and raw not in inner:
            raise read.ReadError(unknown("value", raw, inner))
        reader = next(filter(callable, getattr(kind, "__metadata__", ())), None)
        return reader(self, raw) if reader else msgspec.convert(raw, kind)

    def _items(self, kind: object, raw: object, path: str) -> object:
        """A list; one table may stand for a list of one."""
        if isinstance(raw, dict) and isinstance(kind, type):
            return (self.value(kind, raw, path),)
        if not isinstance(raw, list):
            raise read.ReadError(f"expected a list, got `{type(raw).__name__}`")
        items = tuple(self.value(kind, item, f"{path}[{index}]") for index, item in enumerate(raw))
        return items if all_known(*items) else UNSET


def all_known(*values: object) -> bool:
    """Whether all of them could be read, so that a rule may judge them."""
    return all(value is not UNSET for value in values)


def _absent(kind: object) -> object:
    """What an absent key is read as: a section as an empty table, else its written default, or UNSET."""
    if isinstance(kind, type) and issubclass(kind, Struct):
        return {}
    return next((text for text in getattr(kind, "__metadata__", ()) if isinstance(text, str)), UNSET)
