"""Which providers have the jobs of unfinished videos, or are waited for, counted by one statement.

For who looks at a database from outside (`gateway.doctor`); an engine knows of its own tasks.
"""

from __future__ import annotations

from typing import Final

import msgspec

from gateway.core.facts import Candidate
from gateway.storage.db import Database

# Each part by an index that holds nothing else.
UNFINISHED: Final = """select provider, '[]', '[]', count(*) from videos
    where state in ('submitting', 'rendering', 'submission_unknown') group by provider
    union all select null, candidates, ruled_out, count(*) from videos
    where state = 'waiting' group by candidates, ruled_out"""
_candidates = msgspec.json.Decoder(tuple[Candidate, ...]).decode


async def homes(database: Database) -> list[tuple[tuple[str, ...], int]]:
    """Who has a job, or all that may get one, each with how many videos. Raises StorageError."""
    found = []
    for provider, candidates, ruled_out, count in await database.read(UNFINISHED):
        out = _candidates(str(ruled_out))
        names = [one.provider for one in _candidates(str(candidates)) if one not in out]
        found.append((tuple(names) if provider is None else (str(provider),), int(count or 0)))
    return found
