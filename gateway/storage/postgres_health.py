"""What PostgreSQL says of itself, its database and our user, by one statement that changes nothing.

Held here: the question and its answer. Not held here: what of it is wrong (`gateway.doctor`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from gateway.storage.db import Row
from gateway.storage.postgres_batch import NOW

# A limit of -1 is none. Superusers may use what is reserved for them. Not counted is what a replica that runs
# here has taken already, or this very connection.
FACTS: Final = f"""with mine as (
        select rolname, rolconnlimit, rolsuper from pg_roles where rolname = current_user),
    used as (
        select count(*) filter (where backend_type = 'client backend') everybody,
            count(*) filter (where usename = current_user) ours,
            count(*) filter (where datname = current_database()) here
        from pg_stat_activity where not (
            application_name = 'reelgate' and client_addr is not distinct from inet_client_addr()))
    select current_user::text, current_setting('fsync'), current_setting('synchronous_commit'),
        (current_setting('default_transaction_read_only') = 'on')::int,
        coalesce(has_schema_privilege(current_schema(), 'create'), false)::int,
        least(
            current_setting('max_connections')::bigint - used.everybody
                - case when mine.rolsuper then 0
                    else current_setting('superuser_reserved_connections')::bigint end,
            case when mine.rolconnlimit < 0 then 100000 else mine.rolconnlimit - used.ours end,
            case when d.datconnlimit < 0 then 100000 else d.datconnlimit - used.here end),
        (select setting::bigint from pg_settings where name = 'statement_timeout'),
        {NOW}
    from mine, used, pg_database d where d.datname = current_database()"""  # noqa: S608


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """`connections`: how many more we may open. `at`: the server's clock, Unix seconds.

    `statement_timeout_ms` 0: none.
    """

    user: str
    fsync: str
    synchronous_commit: str
    is_read_only: bool
    may_create: bool
    connections: int
    statement_timeout_ms: int
    at: float


def facts_of(rows: Sequence[Row]) -> Facts:
    """The answer to FACTS."""
    return msgspec.convert(
        dict(zip(Facts.__struct_fields__, rows[0], strict=True)), Facts, strict=False
    )
