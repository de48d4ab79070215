"""Groups: what the disk makes of it. Slow fsyncs, lists of a million rows, the writes of a whole life.

Not held here: the rows themselves (`filling`).
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Final

from tests.bench import filling
from tests.bench.cases import MIDDLE, P99, ROW_WRITES, Case, Group, Requests, Sample, quantile
from tests.bench.load import Load, drive
from tests.bench.processes import await_true
from tests.bench.stage import BODY, NEVER_POLLED, Gateway, Seen, Stage
from tests.bench.wire import request

_SLOW_US: Final = 2_000
_CALLERS: Final = 96  # far fewer than the writes that may wait when a new video comes
# Never sent, so that nothing but the accept is measured: one a minute may leave, and that one has left.
_ONE_A_MINUTE: Final = ("requests_per_minute = 1", *NEVER_POLLED)
_LIFE_SECONDS: Final = 3.0
_POLLED_OFTEN: Final = ('poll_min = "50ms"', 'poll_max = "100ms"')
_LIVES: Final = 40
# Rows that are written for a task; the others belong to the process.
_OF_A_TASK: Final = (
    "videos", "video_requests", "video_inputs", "video_labels", "events", "idempotency_keys", "ledger",
)
_COUNTING: Final = """create trigger bench_{table}_{verb} after {verb} on {table} begin
    insert into bench_writes (what) values ('{table}'); end"""


def _slow_fsync(stage: Stage) -> dict[str, str] | None:
    """The environment of a server whose fsyncs are slow; None, and a sentence, without a C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        stage.missing.append("slow fsyncs: there is no C compiler `cc` here (apt-get install gcc)")
        return None
    library = stage.folder / "slow_fsync.so"
    source = Path(__file__).with_name("slow_fsync.c")
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True)
    return {"LD_PRELOAD": str(library), "SLOW_FSYNC_US": str(_SLOW_US)}


def syncing(stage: Stage) -> list[Case]:
    """Accepts alone, with fsyncs as they are and slow ones, committed together and each alone."""
    slow = _slow_fsync(stage)
    vendor = stage.vendor()
    cases: list[Case] = []
    for name, program, environ in (
        ("accept", "gateway", {}),
        ("accept, commit per row", "tests.bench.single_commits", {}),
        ("accept, 2 ms fsync", "gateway", slow),
        ("accept, 2 ms fsync, commit per row", "tests.bench.single_commits", slow),
    ):
        if environ is None:
            continue
        gateway = stage.gateway(name.replace(" ", "-"), vendor, *_ONE_A_MINUTE, program=program)
        server = stage.serve(gateway, environ)
        gateway.ask("POST", "/v1/videos", BODY)
        count = 1_000 if program != "gateway" and environ else 3_000
        cases.append(Requests(
            name=name, server=server, status=202, requests=gateway.creates, count=stage.sized(count),
            connections=_CALLERS, alone=stage.sized(20, 10),
        ).case())  # fmt: skip
    return cases


def listing(stage: Stage) -> list[Case]:
    """Pages of several kinds, of a caller who has few videos and of one who has very many."""
    vendor = stage.vendor()
    owners: list[tuple[Gateway, int]] = []
    for rows in (1_000, stage.sized(1_000_000, 2_000)):
        gateway = stage.gateway(f"rows-{rows}", vendor, *NEVER_POLLED)
        began = time.perf_counter()
        filling.finished(gateway, rows)
        stage.say(f"{rows:,} rows were filled in within {time.perf_counter() - began:.0f} s")
        server = stage.serve(gateway)
        stage.say(f"ready on {rows:,} rows after {server.ready_seconds:.2f} s")
        owners.append((gateway, rows))
    return [_pages(stage, gateway, kind, rows) for kind in PAGES for gateway, rows in owners]


# What a page is asked by: `{middle}` is a video in the middle of all.
PAGES: Final = {
    "newest page": "limit=20",
    "page in the middle": "limit=20&after={middle}",
    "page by a common status": "limit=20&status=completed",
    "page by a rare status": "limit=20&status=failed",
    "page by a status of none": "limit=20&status=cancelled",
    "page by a stage of none": "limit=20&stage=rendering",
    "page by a model of none": "limit=20&model=none",
    "page by a provider of none": "limit=20&provider=none",
    "page by a label": "limit=20&metadata[shelf]=top",
    "page by a label of none": "limit=20&metadata[shelf]=cellar",
    "page by provider and time": "limit=20&provider=highway&created_before={then}",
    "page by a label and a common status": "limit=20&metadata[shelf]=top&status=completed",
    "page by a label and a status of none": "limit=20&metadata[shelf]=top&status=cancelled",
    "page by a label and a rare status": "limit=20&metadata[shelf]=top&status=failed",
}
MANY: Final = "1,000,000 rows"
FEW: Final = "1,000 rows"


def _pages(stage: Stage, gateway: Gateway, kind: str, rows: int) -> Case:
    middle, then = f"video_{rows // 2:032x}", int(time.time() - rows * filling.SPREAD_SECONDS / 2)
    path = "/v1/videos?" + PAGES[kind].format(middle=middle, then=then)
    load = Load(requests=[request("GET", path, gateway.headers)], connections=1, count=stage.sized(150),
                status=200)

    def run() -> Sample:
        seconds = asyncio.run(drive(gateway.port, load, lambda: None))
        return {MIDDLE: quantile(seconds, 0.5) * 1e3, P99: quantile(seconds, 0.99) * 1e3}

    return Case(f"{kind}, {FEW if rows == 1_000 else MANY}", run)


def writing(stage: Stage) -> list[Case]:
    """Whole lives under a counter in the database, asked for seldom and often."""
    vendor = stage.vendor("--done-after", str(_LIFE_SECONDS))
    found: list[Case] = []
    for name, limits in (("polled twice", ('poll_min = "2s"', 'poll_max = "2s"')),
                         ("polled often", _POLLED_OFTEN)):
        gateway = stage.gateway(name.replace(" ", "-"), vendor, *limits)
        _count_writes(gateway.database)
        stage.serve(gateway)
        found.append(Case(name, lambda gateway=gateway: _lives(stage, gateway)))  # type: ignore[misc]
    return found


def _lives(stage: Stage, gateway: Gateway) -> Sample:
    lives = stage.sized(_LIVES, 5)
    with closing(sqlite3.connect(gateway.database)) as connection, connection:
        connection.execute("delete from bench_writes")
    gateway.vendor.say("forget")
    asyncio.run(drive(gateway.port, Load(requests=gateway.creates(lives), connections=lives, count=lives,
                                         status=202), lambda: None))
    unfinished = [f"/v1/videos?limit=1&status={status}" for status in ("queued", "in_progress")]
    await_true(lambda: not any(gateway.read(path, Seen).data for path in unfinished), "every video's end")
    with closing(sqlite3.connect(gateway.database)) as connection:
        await_true(lambda: connection.execute("select count(*) from ledger").fetchone() == (0,), "the sums")
        rows = dict(connection.execute("select what, count(*) from bench_writes group by what").fetchall())
    return {
        ROW_WRITES: sum(rows.values()) / lives, "hot row writes": rows.get("videos", 0) / lives,
        "polls": gateway.vendor.told().polls / lives,
    } | {f"{table}": rows.get(table, 0) / lives for table in _OF_A_TASK if table in rows}


def _count_writes(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("create table bench_writes (what text not null)")
        for table in _OF_A_TASK:
            for verb in ("insert", "update", "delete"):
                connection.execute(_COUNTING.format(table=table, verb=verb))


FSYNC: Final = Group(
    name="fsync", title="Accepts on a slow disk", open=syncing,
    note=f"""{_CALLERS} connections; the provider takes no more, so that only the accept is measured, up
to its durable 202. Every fsync is made {_SLOW_US / 1000:g} ms slower by a preloaded library. Commit per
row is the same program with a batch of one.""",
)
LIST: Final = Group(
    name="list", title="Lists", open=listing,
    note="""One connection, 150 pages of 20 in each round, of a caller who owns all the rows. Of the
videos one in a thousand failed; one in 256 has the label.""",
)
WRITES: Final = Group(
    name="writes", title="Row writes of a task's whole life", open=writing, is_warmed=False, rounds=2,
    note=f"""Triggers count every row that is inserted, changed or deleted, from the accept with an
Idempotency-Key to the end of a render of {_LIFE_SECONDS:g} s; by table. The hot row is that in `videos`.
An entry of the ledger is two: it is taken away when it is summed up, some seconds later and a thousand
at once; the sums, a few rows for all videos of a day, are not counted.""",
)
