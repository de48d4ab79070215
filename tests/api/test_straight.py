"""A create that goes straight through, and one whose storing fails: its place at the provider is free again.

Whoever meets `narrow`, which takes one job at a time, sees whether a place was lost. Not held here: who goes
at once (`tests/engine/test_entering.py`), the idempotency keys themselves (`test_idempotency`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import httpx
import pytest

from gateway.storage.db import Duplicate, GuardFailed, Row, Step, StorageBusy, StorageError
from gateway.storage.sqlite import SqliteDatabase
from gateway.storage.store import VIDEO_ADD
from tests.serving import Json, Served, read, serving, together

NARROW: Final[Json] = {"prompt": "a fox", "provider": "narrow", "resolution": "1080p"}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path) as started:
        yield started


def create(served: Served, **headers: str) -> httpx.Response:
    return served.client.post("/v1/videos", json=NARROW, headers=headers)


def places(served: Served) -> tuple[int, int, int, int]:
    """What the gate of `narrow` counts, and the videos that are being stored."""

    async def counted() -> tuple[int, int, int, int]:
        gate = served.gateway.fleet.providers["narrow"].gate
        return gate.in_flight, gate.entered, gate.sending, len(served.gateway.engine.tickets)

    return served.run(counted)


def break_storing(monkeypatch: pytest.MonkeyPatch, error: StorageError, *, is_stored: bool) -> None:
    """The next new video meets this error, and is stored all the same or not."""
    write, left = SqliteDatabase.write, [error]

    async def broken(
        database: SqliteDatabase, steps: Sequence[Step], committed: Callable[[], None] | None = None,
        tell: str | None = None,
    ) -> list[Row]:
        if not left or VIDEO_ADD not in [step.sql for step in steps]:
            return await write(database, steps, committed, tell)
        if is_stored:
            await write(database, steps)
        raise left.pop()

    monkeypatch.setattr(SqliteDatabase, "write", broken)


def test_a_video_that_need_not_wait_is_answered_as_being_sent(served: Served) -> None:
    answer = create(served)
    assert answer.status_code == 202
    video = read(answer)
    assert (video["status"], video["stage"], video["attempts"]) == ("queued", "submitting", 1)
    assert create(served).json()["stage"] == "waiting", "there is one place"
    timeline = read(served.client.get(f"/v1/videos/{video['id']}/timeline"))["data"]
    assert "submitting" in [event["type"] for event in timeline]
    assert served.finish(video["id"])["status"] == "completed"


@pytest.mark.parametrize("kind", [Duplicate, GuardFailed, StorageBusy, StorageError])
def test_a_video_that_was_not_stored_leaves_its_place_to_the_next(
    served: Served, monkeypatch: pytest.MonkeyPatch, kind: type[StorageError]
) -> None:
    break_storing(monkeypatch, kind("made for a test"), is_stored=False)
    assert create(served).status_code >= 500
    video = served.completed(provider="narrow", resolution="1080p")
    assert (places(served), len(served.ledger)) == ((0, 0, 0, 0), 1)
    assert [each["id"] for each in read(served.client.get("/v1/videos"))["data"]] == [video["id"]]


def test_a_video_that_was_stored_although_the_database_denied_it_is_sent_once(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_storing(monkeypatch, StorageError("made for a test"), is_stored=True)
    lost = create(served, **{"Idempotency-Key": "k"})
    assert lost.status_code == 503
    again = create(served, **{"Idempotency-Key": "k"})
    assert (again.status_code, again.headers["idempotent-replayed"]) == (202, "true")
    assert served.finish(read(again)["id"])["status"] == "completed"
    assert (places(served), len(served.ledger)) == ((0, 0, 0, 0), 1)


def test_those_that_lost_the_race_for_a_key_give_their_places_back(served: Served) -> None:
    answers = together(lambda: create(served, **{"Idempotency-Key": "k"}), 12)
    (video_id,) = {read(answer)["id"] for answer in answers}
    assert served.finish(video_id)["status"] == "completed"
    assert (places(served), len(served.ledger)) == ((0, 0, 0, 0), 1)
    assert served.completed(provider="narrow", resolution="1080p")["id"] != video_id
