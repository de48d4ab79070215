"""What a replica tells of videos that wait at another: their places among all, counted once for a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from gateway.storage.db import Row, Value
from gateway.storage.postgres import PostgresDatabase
from gateway.storage.store import COUNTS
from tests.replicas.house import house, read

pytestmark = pytest.mark.anyio


async def test_a_page_tells_the_places_of_what_waits_elsewhere_from_one_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[str] = []
    ask = PostgresDatabase.read

    async def reading(self: PostgresDatabase, sql: str, args: Sequence[Value] = ()) -> list[Row]:
        if "count(*)" in sql and sql != COUNTS:
            counts.append(sql)
        return await ask(self, sql, args)

    async with house(tmp_path) as place, place.replicas(2) as (owner, other):
        first = await owner.create("fills the only place", "narrow")
        await owner.until(first["id"], lambda video: bool(video["status"] == "in_progress"))
        made = [(await owner.create(f"waits {number}", "narrow"))["id"] for number in range(5)]
        alone = [(await other.video(video_id))["queue"]["position"] for video_id in made]
        monkeypatch.setattr(PostgresDatabase, "read", reading)
        listed = read(await other.client.get("/v1/videos", params={"order": "asc"}))["data"]
        assert [video["id"] for video in listed] == [first["id"], *made]
        assert [video["queue"] and video["queue"]["position"] for video in listed] == [None, 1, 2, 3, 4, 5]
        assert alone == [1, 2, 3, 4, 5]
        assert len(counts) == 1
