"""A video is durable before its caller is told so, and its caller is told before its vendor is asked.

On both databases, over real sockets; whatever would come too early is given the time to. Not held here: lives
that are cut in between (`tests/kill`), videos that wait for their turn (`tests/engine/test_entering.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
from litestar.types import Message, Receive, Scope, Send

from gateway.api.edge import Edge
from gateway.storage.db import Row, Step
from gateway.storage.postgres import PostgresDatabase
from gateway.storage.sqlite import SqliteDatabase
from gateway.storage.store import VIDEO_ADD
from providers.spec import Offering, Submitted, VideoRequest
from tests.replicas.house import PATIENCE_SECONDS, Replica, house, read

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("database", ["sqlite", "postgres"])]

DRIVERS: Final[dict[str, type[SqliteDatabase | PostgresDatabase]]] = {
    "sqlite": SqliteDatabase, "postgres": PostgresDatabase,
}  # fmt: skip
ROUNDS: Final = 20  # of other callers' requests: enough for whatever does not wait to be done


class Steps:
    """What happened to a new video, in order; each of both ends waits until it `may` go on."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.is_at_commit, self.may_commit, self.may_send = (asyncio.Event() for _ in range(3))


@asynccontextmanager
async def watched(
    folder: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Replica, Steps]]:
    """A gateway whose next new video stops at its commit, and again at its vendor."""
    steps, serve, write = Steps(), Edge.__call__, DRIVERS[database].write

    async def held(
        self: SqliteDatabase | PostgresDatabase, asked: Sequence[Step],
        committed: Callable[[], None] | None = None, tell: str | None = None,
    ) -> list[Row]:  # fmt: skip
        def noted() -> None:
            steps.order.append("durable")
            if committed is not None:
                committed()

        if VIDEO_ADD not in [step.sql for step in asked]:
            return await write(self, asked, committed, tell)  # type: ignore[arg-type]  # it is its own
        steps.is_at_commit.set()
        await steps.may_commit.wait()
        return await write(self, asked, noted, tell)  # type: ignore[arg-type]

    async def serving(self: Edge, scope: Scope, receive: Receive, send: Send) -> None:
        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 202:
                steps.order.append("202")
            await send(message)

        await serve(self, scope, receive, noted)

    monkeypatch.setattr(DRIVERS[database], "write", held)
    monkeypatch.setattr(Edge, "__call__", serving)
    async with house(folder, is_shared=database == "postgres") as place, place.replica() as one:
        adapter = one.gateway.fleet.providers["highway"].adapter
        submit = adapter.submit

        async def sending(request: VideoRequest, offering: Offering) -> Submitted:
            steps.order.append("sent")
            await steps.may_send.wait()
            return await submit(request, offering)

        monkeypatch.setattr(adapter, "submit", sending)
        try:
            yield one, steps
        finally:  # who waits for it to end would wait for these
            steps.may_commit.set()
            steps.may_send.set()


async def test_a_video_is_durable_then_promised_then_sent(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS), watched(tmp_path, database, monkeypatch) as (one, steps):
        body = {"prompt": "a fox", "provider": "highway"}
        order = asyncio.create_task(one.client.post("/v1/videos", json=body))
        await steps.is_at_commit.wait()
        for _ in range(ROUNDS):
            await one.client.get("/v1/videos")
        assert (steps.order, order.done()) == ([], False), "nothing is promised or bought yet"
        steps.may_commit.set()
        answer = await order  # which the vendor's answer has no part in
        video = read(answer)
        assert (answer.status_code, video["charged"]) == (202, "no")
        assert (await one.video(video["id"]))["stage"] == "submitting"
        steps.may_send.set()
        bought = await one.until(video["id"], lambda seen: seen["status"] == "in_progress")
        assert (bought["charged"], steps.order) == ("yes", ["durable", "202", "sent"])
