"""What replicas tell each other over PostgreSQL: with the commit, in order, and "perhaps more" after a cut.

Not held here: what is told (`gateway.storage.news`).
"""

from __future__ import annotations

import asyncio

import pytest

from gateway.storage import postgres_ear
from gateway.storage.db import GuardFailed, Step
from gateway.storage.postgres import PostgresDatabase
from tests.storage.pg_wire import Wire
from tests.storage.stores import Two, until

pytestmark = pytest.mark.anyio

DELETE = Step("delete from keys where id = $1", ("none",))
PUT = "insert into provider_holds (provider, action, by_whom, at) values ($1, 'pause', 'key_1', 1.0)"


class Heard:
    """What was heard; `None` is when something may have been missed."""

    def __init__(self) -> None:
        self.texts: list[str | None] = []

    def __call__(self, text: str | None) -> None:
        self.texts.append(text)

    def count(self, text: str | None) -> int:
        return self.texts.count(text)


async def test_what_is_told_reaches_the_others_and_only_with_its_commit(two: Two) -> None:
    ears = Heard(), Heard()
    for one, ear in zip(two, ears, strict=True):
        one.listen(ear)
    await until(lambda: all(ear.count(None) for ear in ears))
    await two[0].write([Step(PUT, ("taken",))])
    refused = Step("update keys set name = $1 where id = $2", ("x", "none"), GuardFailed)
    writes = [two[0].write([Step(PUT, (f"p{n}",))], tell=f"n\"ews' é {n}") for n in range(3)]
    writes += [two[0].write([refused], tell="no"), two[0].write([DELETE, Step(PUT, ("taken",))], tell="no")]
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert [isinstance(result, Exception) for result in results] == [False, False, False, True, True]
    await two[0].write([DELETE], tell="x" * 20_000)  # longer than what can be sent
    await two[0].write([DELETE], tell="last")
    await until(lambda: "last" in ears[1].texts)
    news = [text for text in ears[1].texts if text is not None]
    assert news == ["n\"ews' é 0", "n\"ews' é 1", "n\"ews' é 2", "last"]
    assert ears[1].texts[-2] is None
    assert ears[0].texts == [None]  # one's own is no news


async def test_many_texts_are_heard_in_order(two: Two) -> None:
    ear = Heard()
    two[1].listen(ear)
    await until(lambda: ear.count(None) > 0)
    texts = [f"{number}:{'y' * 300}" for number in range(200)]
    await asyncio.gather(*(two[0].write([DELETE], tell=text) for text in texts))
    await until(lambda: len(ear.texts) > 200)
    assert [text for text in ear.texts if text is not None] == texts


async def test_who_was_cut_off_knows_that_something_may_be_missed(
    wire: Wire, behind: PostgresDatabase, two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_ear, "PROBE_SECONDS", 0.05)
    ear = Heard()
    behind.listen(ear)
    await until(lambda: ear.count(None) == 1)
    wire.cut()
    await until(lambda: ear.count(None) >= 2)
    wire.is_refusing = True
    wire.cut()
    before = ear.count(None)
    await until(lambda: ear.count(None) >= before + 3)  # again and again, as long as nothing is heard
    wire.is_refusing = False
    async with asyncio.timeout(20):
        while "back" not in ear.texts:
            await two[0].write([DELETE], tell="back")


async def test_who_hears_nothing_says_so_although_the_connection_stands(
    behind: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a pooler: LISTEN is taken, and nothing arrives."""
    monkeypatch.setattr(postgres_ear, "PROBE_SECONDS", 0.05)
    monkeypatch.setattr(postgres_ear, "CHANNEL", "elsewhere")
    monkeypatch.setattr(postgres_ear, "DEAF_PROBES", 1_000)  # it is not a new connection that says so
    ear = Heard()
    behind.listen(ear)
    await until(lambda: ear.count(None) >= 5)
    assert set(ear.texts) == {None}
