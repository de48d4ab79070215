"""Groups: many callers at once. Long polls of one and of many videos, a slow vendor, downloads.

Not held here: callers that come at a rate of their own, more than can be served (`overload`).
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from tests.bench.cases import (
    BUSY,
    BYTES,
    CPU,
    ERRORS,
    MEMORY,
    MIDDLE,
    P99,
    PEAK,
    RATE,
    Case,
    Group,
    Sample,
    quantile,
)
from tests.bench.holding import Held, hold
from tests.bench.load import Load, drive
from tests.bench.openloop import Outcome, keep_in_flight
from tests.bench.processes import Server, await_true, settled
from tests.bench.stage import BODY, NEVER_POLLED, Gateway, Seen, Stage
from tests.bench.streams import download
from tests.bench.wire import exchange, request

_WAITERS: Final = 5_000
FLOOR: Final = "5,000 waiters, bare"
POLLED: Final = "5,000 waiters on 5,000 videos"
STREAMED: Final = "5,000 event streams of 5,000 videos"
# What is asked for, what comes at once, and whether the answer is a stream.
_POLLED: Final = ("/v1/videos/{}?wait=60", b"", False)
_STREAMED: Final = ("/v1/videos/{}/events", b"accepted_by_vendor", True)
_EVERY_SECOND: Final = ('poll_min = "1s"', 'poll_max = "1s"')
_SELDOM: Final = ('poll_min = "10s"', 'poll_max = "10s"')  # of thousands: else they are all that it does
_RESTING_SHARE: Final = 0.5  # of its core: what the polls of those that wait cost is less
_IN_FLIGHT: Final = 1_000
_VENDOR_SECONDS: Final = 0.2
_FILE_MIB: Final = 64
_DOWNLOADS: Final = 8


class _Listed(msgspec.Struct, frozen=True):
    data: list[Seen]


def fanning_out(stage: Stage) -> list[Case]:
    """Callers that wait for an end, of one video all of them and of a video each, beside a bare floor."""
    waiters = stage.sized(_WAITERS, 50)
    one = partial(_fan_out, stage, waiters, 1, _EVERY_SECOND)
    each = partial(_fan_out, stage, waiters, waiters, _SELDOM)
    return [
        Case(FLOOR, partial(_bare_waiters, stage, waiters)),
        Case("5,000 waiters on one video", partial(one, _POLLED)),
        Case(POLLED, partial(each, _POLLED)),
        Case("5,000 event streams of one video", partial(one, _STREAMED)),
        Case(STREAMED, partial(each, _STREAMED)),
    ]


def _bare_waiters(stage: Stage, waiters: int) -> Sample:
    with ExitStack() as stack:
        server = stage.floor("bare", stack=stack)
        ask = request("GET", "/v1/videos/video_0/held?wait=60", {"Authorization": "Bearer bench"})
        return _held(server, Held(requests=[ask] * waiters), lambda: exchange(server.port, "GET", "/release"))


def _fan_out(
    stage: Stage, waiters: int, videos: int, limits: tuple[str, ...], way: tuple[str, bytes, bool]
) -> Sample:
    path, begins, is_stream = way
    with ExitStack() as stack:
        here = stage.inner(stack, "waiters")
        vendor = here.vendor()
        gateway = here.gateway("waited-for", vendor, *limits)
        server = here.serve(gateway)
        ids = _rendering(gateway, videos)
        asks = [request("GET", path.format(video), gateway.headers) for video in ids]
        held = Held(requests=(asks * waiters)[:waiters], begins=begins, is_stream=is_stream)
        return _held(server, held, lambda: vendor.say("finish"))


def _held(server: Server, held: Held, finish: Callable[[], object]) -> Sample:
    waiters, before_mib = len(held.requests), server.memory_mib()
    marks: list[float] = []

    def mark() -> None:
        settled(server, _RESTING_SHARE)
        marks.extend((server.memory_mib(), server.cpu_seconds(), time.perf_counter()))

    ended_at = asyncio.run(hold(server.port, held, mark, finish))
    waiting_mib, cpu_before, began = marks
    used = server.cpu_seconds() - cpu_before
    return {
        "last answer after s": max(ended_at) - began, "first to last answer s": max(ended_at) - min(ended_at),
        CPU: used / waiters * 1e6, BYTES: (waiting_mib - before_mib) * 2**20 / waiters,
        PEAK: server.peak_mib(),
    }


def _rendering(gateway: Gateway, count: int) -> list[str]:
    """Videos that the vendor has, made by callers who wait for their answers."""
    creates = Load(requests=gateway.creates(count), connections=min(16, count), count=count, status=202)
    asyncio.run(drive(gateway.port, creates, lambda: None))
    gateway.settle(count)
    with closing(sqlite3.connect(gateway.database)) as connection:
        return [str(row[0]) for row in connection.execute("select id from videos where state = 'rendering'")]


def crowding(stage: Stage) -> list[Case]:
    """A thousand creates under way at a vendor that takes its time, each replaced when it is answered."""
    vendor = stage.vendor("--delay", str(_VENDOR_SECONDS))
    gateway = stage.gateway("crowd", vendor, *NEVER_POLLED)
    server = stage.serve(gateway)
    count = stage.sized(6_000, 1_200)

    def run() -> Sample:
        taken, cpu = vendor.told().taken, server.cpu_seconds()
        creates = gateway.creates(count)
        outcome = asyncio.run(keep_in_flight(
            gateway.port, creates, _IN_FLIGHT, lambda: vendor.told().taken - taken))
        await_true(lambda: vendor.told().taken - taken >= len(outcome.accepted), "the last creates")
        queued = "/v1/videos?limit=1&status=queued"
        await_true(lambda: not gateway.read(queued, Seen).data, "the last commits")
        used = server.cpu_seconds() - cpu
        if outcome.refused or outcome.samples:
            stage.say(f"{len(outcome.refused)} were refused; other answers: {outcome.samples}")
        lasted, whole = _until_taken(gateway.database, outcome.sent_at)
        return _crowd_sample(outcome, whole, lasted, used) | {PEAK: server.peak_mib()}

    return [Case("1,000 in flight, 200 ms", run)]


def _crowd_sample(outcome: Outcome, whole: Sequence[float], lasted: float, used: float) -> Sample:
    return {
        RATE: len(whole) / lasted, ERRORS: outcome.other + outcome.broken + len(outcome.refused),
        MIDDLE: quantile(whole, 0.5) * 1e3, P99: quantile(whole, 0.99) * 1e3,
        "202 p99 ms": quantile(outcome.accepted, 0.99) * 1e3, CPU: used / len(whole) * 1e6,
        BUSY: used / lasted,
    }


def _until_taken(database: Path, sent_at: Mapping[str, float]) -> tuple[float, list[float]]:
    """How long all took, and each, from its sending to the vendor's acceptance as the gateway stored it."""
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("select id, started_at from videos where started_at is not null").fetchall()
    taken_at = {str(video): float(at) for video, at in rows if video in sent_at}
    lasted = max(taken_at.values()) - min(sent_at.values())
    return lasted, [at - sent_at[video] for video, at in taken_at.items()]


def streaming(stage: Stage) -> list[Case]:
    """Downloads of a finished video through the gateway, from a vendor that sends as fast as it is read."""
    vendor = stage.vendor("--done-after", "0", "--file-mib", str(_FILE_MIB))
    gateway = stage.gateway("content", vendor, *_EVERY_SECOND)
    server = stage.serve(gateway)
    gateway.ask("POST", "/v1/videos", BODY)
    finished = "/v1/videos?limit=1&status=completed"
    await_true(lambda: bool(gateway.read(finished, _Listed).data), "the video's end")
    video = gateway.read(finished, _Listed).data[0].id
    fetch = request("GET", f"/v1/videos/{video}/content", gateway.headers)

    def case(count: int) -> Case:
        def run() -> Sample:
            cpu, before = server.cpu_seconds(), server.memory_mib()
            began = time.perf_counter()
            got = asyncio.run(download(gateway.port, fetch, count))
            lasted, used = time.perf_counter() - began, server.cpu_seconds() - cpu
            return {"MB/s": got / lasted / 1e6, "CPU ms a MB": used * 1e3 / (got / 1e6), BUSY: used / lasted,
                    MEMORY: server.memory_mib(), "more MiB": server.memory_mib() - before,
                    PEAK: server.peak_mib()}
        return Case(f"{count} download{'s' if count > 1 else ''} of {_FILE_MIB} MiB", run)

    return [case(1), case(_DOWNLOADS)]


FANOUT: Final = Group(
    name="fanout", title="Long polls", open=fanning_out, rounds=2, is_warmed=False,
    note="""Callers with `?wait=60` or an event stream, each on a connection of its own; when the gateway is
at rest the vendor finishes everything. Bare: a Litestar handler that waits for an event, which is then set.
Last answer: from then on, the time to the next poll (1 s; of 5,000 videos 10 s) included. CPU: from then to
the last answer, by caller, the polls and the commits included. Bytes: resident memory that a waiting caller
adds.""",
)
CROWD: Final = Group(
    name="crowd", title="Many creates at a slow vendor", open=crowding, rounds=3,
    note=f"""1,000 connections. There are always {_IN_FLIGHT:,} creates between the caller's request and
the vendor's answer, which takes {_VENDOR_SECONDS * 1e3:.0f} ms; for each that is answered another is
sent. p50 and p99: from the caller's sending to the vendor's answer, as the gateway stored its time. Errors:
any answer but a 202.""",
)
CONTENT: Final = Group(
    name="content", title="Downloads", open=streaming, rounds=3,
    note="""A finished video through the gateway to callers that throw it away; the vendor sends as fast
as it is read. More MiB: resident memory after the downloads less that before.""",
)
