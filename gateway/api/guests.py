"""Requests that stay open, by the key they came with: whose key ends has to go within seconds.

Not held here: what a request does when it has to go (`streams`, `waiting`), which keys are good
(`gateway.storage.keys`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Guest:
    """One open request; `is_out`: its key has ended, and `leave` was called."""

    __slots__ = ("is_out", "leave")

    def __init__(self, leave: Callable[[], None]) -> None:
        self.is_out, self.leave = False, leave


class Guests:
    """All open requests, by the digests of what they came with; '' is no key, and is not followed."""

    def __init__(self) -> None:
        self._here: dict[str, dict[Guest, None]] = {}

    @property
    def digests(self) -> list[str]:
        """What those who are here came with, each once."""
        return list(self._here)

    @contextmanager
    def stay(self, digest: str, leave: Callable[[], None]) -> Iterator[Guest]:
        """Have `leave` called when that key ends while the context lasts."""
        guest = Guest(leave)
        if not digest:
            yield guest
            return
        same = self._here.setdefault(digest, {})
        same[guest] = None
        try:
            yield guest
        finally:
            same.pop(guest, None)
            if not same and self._here.get(digest) is same:
                del self._here[digest]

    def put_out(self, digest: str) -> None:
        """That key has ended: all who came with it have to go."""
        for guest in self._here.pop(digest, ()):
            guest.is_out = True
            guest.leave()
