"""The key that links are signed with: made at the first use, the same for every replica on the database.

Not held here: signing (`gateway.signing`).
"""

from __future__ import annotations

import secrets
from typing import Final

from gateway.storage.db import Database, GuardFailed, Step

KEY_BYTES: Final = 32
_ID: Final = "1"
KEY_ADD: Final = """insert into signing_keys (id, secret, created_at) values ($1, $2, $3)
    on conflict do nothing"""
KEY_GET: Final = "select secret from signing_keys where id = $1"


async def signing_key(database: Database, now: float) -> bytes:
    """The key; `now` (Unix seconds) is noted where it is made. Raises StorageError."""
    rows = await database.read(KEY_GET, (_ID,))
    if not rows:
        made = Step(KEY_ADD, (_ID, secrets.token_hex(KEY_BYTES), now))
        await database.write((made,))  # or somebody else's: theirs came first
        rows = await database.read(KEY_GET, (_ID,))
    if not rows:
        raise GuardFailed("the key to sign links with could neither be made nor read")
    return bytes.fromhex(str(rows[0][0]))
