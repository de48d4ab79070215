"""The patient: a configuration that can be used, the file as it is written, and the machine it is on.

Not held here: any judgement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from gateway.doctor.machine import Machine
from gateway.settings import Settings
from gateway.values import join


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """What is examined. `tree` is the file at `path` as TOML; `told` says what is no finding."""

    path: Path
    tree: dict[str, object]
    settings: Settings
    machine: Machine
    told: Callable[[str], None]

    def written(self, *keys: str) -> object:
        """What the file has under these keys; None: nothing."""
        found: object = self.tree
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        return found

    def secret_files(self) -> Iterator[tuple[str, Path]]:
        """Every `{ file = "PATH" }`, and the key where it stands."""
        yield from _files(self.tree, "", self.path.absolute().parent)


def _files(found: object, where: str, folder: Path) -> Iterator[tuple[str, Path]]:
    if isinstance(found, list):
        for index, item in enumerate(found):
            yield from _files(item, f"{where}[{index}]", folder)
    elif isinstance(found, dict):
        path = found.get("file")
        if set(found) == {"file"} and isinstance(path, str):
            yield where, folder / path
        for key, item in found.items():
            yield from _files(item, join(where, key), folder)
