"""Disk space held beside a database, to be let go when the disk is full: paid work is finished in it.

Not held here: when that is (`sqlite`), and what is refused meanwhile (`store`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

RESERVE_BYTES: Final = 16 * 2**20  # measured: more than 60,000 saves of a task with its event, log included


def hold(path: Path) -> str | None:
    """Hold RESERVE_BYTES in the file `path`; why they are not held, in a sentence, or None when they are.

    They are taken only where twice as much is free: who takes the last of a disk is in want again at once.
    """
    try:
        if path.exists() and path.stat().st_size >= RESERVE_BYTES:
            return None
        free = room_bytes(path.parent)
        if free < 2 * RESERVE_BYTES:
            return f"the disk is full: {free} bytes are free beside {path}, {2 * RESERVE_BYTES} are needed"
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(handle, 0, RESERVE_BYTES)
        except OSError:
            path.unlink()
            raise
        finally:
            os.close(handle)
    except OSError as error:
        return f"cannot hold {RESERVE_BYTES} bytes in {path}: {error}"
    return None


def let_go(path: Path) -> bool:
    """Give the space back to the disk; False when none was held. Raises OSError."""
    if not path.exists():
        return False
    path.unlink()
    return True


def room_bytes(folder: Path) -> int:
    """What is free, in bytes, on the disk of `folder` for who is not root. Raises OSError."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
