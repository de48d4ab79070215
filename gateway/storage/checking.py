"""What must be true of any stored database: rules that no row may break, each a query that finds who does.

Not held here: what must be true of a change (`gateway.core.tasks`), the file's own integrity (the drivers).
"""

from __future__ import annotations

from typing import Final

from gateway.storage.db import Database

SHOWN_MAX: Final = 5
_ENDED: Final = "('completed', 'failed', 'cancelled')"
RULES: Final = {
    "a video without its request":
        """select id from videos where not exists (
            select 1 from video_requests r where r.video_id = videos.id)""",
    "a timeline that does not end with the video's last event":
        """select id from videos where last_seq <> coalesce((
            select max(seq) from events e where e.video_id = videos.id), 0)""",
    "a gap in a timeline":
        "select video_id from events group by video_id having sum(count) <> max(seq)",
    "an event of no video":
        """select distinct video_id from events where not exists (
            select 1 from videos v where v.id = video_id)""",
    "a secret of no key":
        """select key_id from key_digests d where not exists (
            select 1 from keys k where k.id = d.key_id)""",
    "a label that is not its video's":
        """select distinct video_id from video_labels l where not exists (
            select 1 from videos v
            where v.id = l.video_id and v.owner = l.owner and v.created_at = l.created_at)""",
    "an upload without its bytes, or bytes of no upload":
        """select id from uploads where not exists (
            select 1 from upload_contents c where c.upload_id = uploads.id)
        union all select upload_id from upload_contents where not exists (
            select 1 from uploads u where u.id = upload_id)""",
    "a webhook of no endpoint":
        """select id from webhook_messages where endpoint <> '' and not exists (
            select 1 from webhook_endpoints w where w.id = endpoint)""",
    "a try of no webhook":
        """select distinct message_id from webhook_tries where not exists (
            select 1 from webhook_messages m where m.id = message_id)""",
    "a ledger in which a key has other unfinished videos than are stored":
        """select key_id from (
            select key_id, accepted - completed - failed - cancelled as count from ledger
            union all select key_id, accepted - completed - failed - cancelled from usage_days
            union all select key_id, -1 from videos where key_id <> ''
                and state in ('waiting', 'submitting', 'rendering', 'submission_unknown')) as counted
        group by key_id having sum(count) <> 0""",
    "a ledger with less than nothing put aside or settled":
        """select key_id from (
            select owner, day, key_id, provider, model, currency, reserved, settled from ledger
            union all
            select owner, day, key_id, provider, model, currency, reserved, settled from usage_days) as booked
        group by owner, day, key_id, provider, model, currency
        having sum(reserved) < 0 or sum(settled) < 0""",
    "a day or month of which a key has spent other money than its videos say":
        """select key_id from (
            select owner, key_id, currency, day as period, reserved + settled as amount from usage_days
            union all
            select owner, key_id, currency, substr(day, 1, 7), reserved + settled from usage_days
            union all select owner, key_id, currency, period, -amount from spent_periods) as told
        group by owner, key_id, currency, period having sum(amount) <> 0""",
    "a video that ended without a time, or has one and did not end":
        f"select id from videos where (completed_at is not null) <> (state in {_ENDED})",  # noqa: S608
    "a job being rendered without the vendor's id":
        "select id from videos where state = 'rendering' and vendor_task_id is null",
    "a video that may have been bought and says otherwise":
        "select id from videos where state in ('rendering', 'submission_unknown') and charged = 'no'",
    "a stored video of whose file nothing is known":
        """select id from videos where (file_key is not null or stage = 'stored') and file is null""",
    "a file that is there without an end, or the reverse":
        "select id from videos where (file_key is null) <> (file_until is null)",
    "a file to be stored of a video that has not ended":
        f"select id from videos where unstored_since is not null and state not in {_ENDED}",  # noqa: S608
    "a video that waits to be stored and says otherwise":
        """select id from videos where state = 'completed'
            and (stage = 'storing') <> (unstored_since is not null)""",
    "a completed video without a link":
        "select id from videos where state = 'completed' and result_url is null",
}


async def check(database: Database) -> list[str]:
    """What is wrong, in sentences; nothing: all rules hold. Raises StorageError when it cannot be read."""
    problems = []
    for rule, sql in RULES.items():
        found = [str(row[0]) for row in await database.read(f"{sql} limit {SHOWN_MAX + 1}")]
        if found:
            more = ", ..." if len(found) > SHOWN_MAX else ""
            problems.append(f"{rule}: {', '.join(found[:SHOWN_MAX])}{more}")
    return problems
