"""What the examination asks of the machine it runs on, as one value, so that a test can answer instead.

Not held here: what of it is wrong (`places`).
"""

from __future__ import annotations

import os
import resource
import shutil
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

SHARED_FILESYSTEMS: Final = frozenset({
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "lustre", "afs", "virtiofs",
    "fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.goofys",
})
_MOUNTS: Final = Path("/proc/self/mountinfo")
_READ_BY_OTHERS: Final = stat.S_IROTH
_ENTER_BY_OTHERS: Final = stat.S_IXOTH


class Room(NamedTuple):
    """Bytes of the disk that a path is on, and which disk that is."""

    device: int
    free: int
    total: int


def is_seen(path: Path) -> bool:
    """Whether it is there, and this user can come so far."""
    return os.access(path, os.F_OK, effective_ids=True)


def may_write_in(folder: Path) -> bool:
    """Whether this user can make files there."""
    return os.access(folder, os.W_OK | os.X_OK, effective_ids=True)


def may_write(file: Path) -> bool:
    """Whether this user can read and write it."""
    return os.access(file, os.R_OK | os.W_OK, effective_ids=True)


def nearest(path: Path) -> Path:
    """`path`, or the folder nearest above it that can be seen."""
    return next(place for place in (path, *path.parents) if is_seen(place))


def _room(path: Path) -> Room:
    place = nearest(path)
    found = shutil.disk_usage(place)
    return Room(place.stat().st_dev, found.free, found.total)


def _filesystem(path: Path) -> str:
    """The type of the file system as Linux names it; empty elsewhere."""
    if not _MOUNTS.exists():
        return ""
    place, best, kind = nearest(path).resolve(), Path(), ""
    for line in _MOUNTS.read_text("utf-8", "surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        mounted = Path(before.split()[4].replace("\\040", " "))
        if place.is_relative_to(mounted) and len(mounted.parts) >= len(best.parts):
            best, kind = mounted, after.split()[0]
    return kind


def _open_files() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """The environment, the clock (Unix seconds), the user, disks, and how many files may be open at once."""

    environ: Mapping[str, str]
    now: Callable[[], float] = time.time
    user_id: Callable[[], int] = os.geteuid
    room: Callable[[Path], Room] = _room
    filesystem: Callable[[Path], str] = _filesystem
    open_files: Callable[[], int] = _open_files


def is_open_to_others(path: Path) -> bool:
    """Whether every user of this machine can read the file: by its own mode, and those of its folders."""
    place = path.resolve()
    if not is_seen(place) or not place.stat().st_mode & _READ_BY_OTHERS:
        return False
    return all(folder.stat().st_mode & _ENTER_BY_OTHERS for folder in place.parents)
