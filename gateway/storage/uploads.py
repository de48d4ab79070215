"""Images that callers upload: what is shown of each, and its bytes as a data URI, like a video's inputs.

In the database and not in the file store: every replica has them, also where files are kept on one machine's
disk or not at all. Held here: the statements of these tables. Not held here: what an upload may be
(`gateway.api.uploads`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from gateway.signing import Signer
from gateway.storage.db import Database, GuardFailed, Step, StorageShort, Value
from gateway.storage.signing_keys import signing_key

SWEPT_MAX: Final = 20  # at once: each has up to 14 MB

UPLOAD_ADD: Final = """insert into uploads
    (id, owner, filename, purpose, content_type, bytes, sha256, created_at, expires_at)
    values ($1, $2, $3, $4, $5, $6, $7, $8, $9)"""
CONTENT_ADD: Final = "insert into upload_contents (upload_id, value) values ($1, $2)"
UPLOAD_GET: Final = """select id, owner, filename, purpose, content_type, bytes, sha256,
    created_at, expires_at from uploads where id = $1 and owner = $2 and expires_at > $3"""
CONTENT_GET: Final = """select c.value from upload_contents c join uploads u on u.id = c.upload_id
    where u.id = $1 and u.owner = $2 and u.expires_at > $3"""
SIZES_GET: Final = """select count(*), cast(coalesce(sum(bytes), 0) as bigint) from uploads
    where owner = $1 and expires_at > $2"""
UPLOAD_DELETE: Final = "delete from uploads where id = $1 and owner = $2"
CONTENT_DELETE: Final = "delete from upload_contents where upload_id = $1"
EXPIRED_GET: Final = """select id, owner from uploads where expires_at <= $1
    order by expires_at limit $2"""
INPUT_GET: Final = "select value from video_inputs where video_id = $1 and field = $2"


class UploadRow(msgspec.Struct, frozen=True, kw_only=True):
    """An upload without its bytes; times in Unix seconds, `sha256` in hexadecimal."""

    id: str
    owner: str
    filename: str
    purpose: str
    content_type: str
    bytes: int
    sha256: str
    created_at: float
    expires_at: float


class Uploads:
    """The uploads of all callers; every read that a caller can cause has the owner in it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, row: UploadRow, content: str) -> None:
        """Store an upload. Raises StorageShort while the disk is full or the database fails."""
        trouble = self._database.trouble
        if trouble is not None:
            raise StorageShort(f"no upload is taken: {trouble}")
        values: tuple[Value, ...] = msgspec.structs.astuple(row)
        await self._database.write((Step(UPLOAD_ADD, values), Step(CONTENT_ADD, (row.id, content))))

    async def get(self, upload_id: str, owner: str, now: float) -> UploadRow | None:
        """The caller's upload; None when there is none, or it is another caller's, or its time is over."""
        rows = await self._database.read(UPLOAD_GET, (upload_id, owner, now))
        if not rows:
            return None
        return msgspec.convert(dict(zip(UploadRow.__struct_fields__, rows[0], strict=True)), UploadRow)

    async def content(self, upload_id: str, owner: str, now: float) -> str | None:
        """The caller's upload as a data URI; None as for `get`."""
        rows = await self._database.read(CONTENT_GET, (upload_id, owner, now))
        return str(rows[0][0]) if rows else None

    async def sizes(self, owner: str, now: float) -> tuple[int, int]:
        """How many uploads a caller has, and how many bytes they are together."""
        ((count, total),) = await self._database.read(SIZES_GET, (owner, now))
        return int(count or 0), int(total or 0)

    async def delete(self, upload_id: str, owner: str) -> bool:
        """Remove an upload; False when there is none."""
        steps = (Step(UPLOAD_DELETE, (upload_id, owner), GuardFailed), Step(CONTENT_DELETE, (upload_id,)))
        try:
            await self._database.write(steps)
        except GuardFailed:
            return False
        return True

    async def sweep(self, now: float) -> int:
        """Remove those whose time is over, SWEPT_MAX at most, the oldest first; how many there were."""
        expired = await self._database.read(EXPIRED_GET, (now, SWEPT_MAX))
        for upload_id, owner in expired:
            await self.delete(str(upload_id), str(owner))
        return len(expired)

    def signer(self, now: Callable[[], float]) -> Signer:
        """What signs the URLs that vendors fetch images by; `now` is Unix time in seconds."""
        return Signer(lambda: signing_key(self._database, now()))

    async def input(self, video_id: str, field: str) -> str | None:
        """An image of a video's request as a data URI, whoever owns it: for signed URLs only."""
        rows = await self._database.read(INPUT_GET, (video_id, field))
        return str(rows[0][0]) if rows else None
