"""The line of creates by itself: its order, its places, and who is refused by the pace of those before.

Not held here: what a served gateway does with it (`test_overload`).
"""

from __future__ import annotations

import asyncio

import pytest

from gateway.api import edge
from tests.serving import PATIENCE_SECONDS


@pytest.mark.anyio
async def test_a_line_has_its_order_and_loses_no_place() -> None:
    line, entered = edge.Line(1, 4), list[str]()

    async def come(name: str, *, first: bool = False) -> None:
        await line.enter(first=first)
        entered.append(name)

    await come("at work")
    async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as group:
        gone, late, stays = (group.create_task(come(name)) for name in ("gone", "late", "stays"))
        await asyncio.sleep(0)
        assert line.is_full
        back = group.create_task(come("back", first=True))
        await asyncio.sleep(0)
        gone.cancel()
        line.leave()
        await back
        line.leave()  # passes over who is gone, to who is cancelled in the moment that it has its turn
        late.cancel()
        await stays
    assert entered == ["at work", "back", "stays"]
    line.leave()
    await come("the next")
    assert not line.is_full


async def _filled(line: edge.Line, count: int) -> list[asyncio.Task[None]]:
    await line.enter()
    entering = [asyncio.create_task(line.enter()) for _ in range(count)]
    await asyncio.sleep(0)
    return entering


def test_a_line_that_moves_is_as_long_as_one_wants_to_wait() -> None:
    async def main() -> None:
        now = 0.0
        line = edge.Line(1, 10_000, 2, lambda: now)
        entering = await _filled(line, 2_000)
        pace_seconds, is_full = 0.005, []
        for entered in entering:
            now += pace_seconds
            line.leave()
            await entered
            is_full.append(line.is_full)
        longest = is_full[::-1].index(True)  # so many waited when a newcomer was refused for the last time
        assert longest * pace_seconds == pytest.approx(edge.WAIT_SECONDS, rel=0.02)

    asyncio.run(main())


def test_a_line_that_moves_in_bursts_is_as_fast_as_it_is_on_the_whole() -> None:
    async def main() -> None:
        now, burst, pace_seconds = 0.0, 64, 0.001
        line = edge.Line(1, 10_000, 2, lambda: now)
        entering = await _filled(line, 4_000)
        is_full = []
        for number, entered in enumerate(entering):
            now += burst * pace_seconds * (number % burst == 0)
            line.leave()
            await entered
            is_full.append(line.is_full)
        waits = [pace_seconds * (len(entering) - number) for number in range(len(entering))]
        refused_at = [seconds for seconds, full in zip(waits, is_full, strict=True) if full]
        assert min(refused_at) > 0.8 * edge.WAIT_SECONDS

    asyncio.run(main())


def test_a_line_that_stands_takes_nobody_but_those_who_are_sure_of_a_place() -> None:
    async def main() -> None:
        now = 0.0
        line = edge.Line(1, 10, 3, lambda: now)
        entering = await _filled(line, 3)
        is_full = [line.is_full]
        now = edge.WAIT_SECONDS
        is_full.append(line.is_full)
        line.leave()
        line.leave()
        await asyncio.sleep(0)
        assert [*is_full, line.is_full] == [False, True, False]
        line.leave()
        await asyncio.gather(*entering)

    asyncio.run(main())


def test_no_pace_makes_a_line_endless() -> None:
    async def main() -> None:
        line = edge.Line(1, 4, 2, lambda: 0.0)
        entering = await _filled(line, 3)
        assert line.is_full
        for _ in range(3):
            line.leave()
        await asyncio.gather(*entering)

    asyncio.run(main())
