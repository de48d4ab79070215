"""How soon a file is stored once what stood in the way is over: a store that is back, a vendor that is.

In virtual time, through the real engine and store. Not held here: that it is stored at all (`test_keeping`).
"""

from __future__ import annotations

import asyncio

import httpx
import pytest

from gateway.engine.copies import AWAY_SECONDS
from providers.spec import VendorError
from tests.engine.hosting import HOUR, FileVendor, Host, Shelf, away, play, stored
from tests.engine.life import Life

AWAY = VendorError("unavailable", "unknown", "HTTP 503", status=503)


async def stored_after(one: Life, back_at: float, count: int) -> list[float]:
    """How many virtual seconds after `back_at` each of the videos was stored."""
    files = [(await stored(one, f"video_{number}")).file for number in range(count)]
    start = one.now() - asyncio.get_running_loop().time()
    return [file.stored_at - start - back_at for file in files if file is not None]


@pytest.mark.parametrize("count", [1, 2, 30])
@pytest.mark.parametrize("seconds", [60.0, 600.0, HOUR / 2])
def test_a_store_that_is_back_has_every_file_within_seconds(count: int, seconds: float) -> None:
    async def story(one: Life, vendor: FileVendor, host: Host, shelf: Shelf) -> None:
        shelf.fault = away(seconds)
        for number in range(count):
            await one.create(f"video_{number}")
        waited = await stored_after(one, seconds, count)
        assert len(waited) == count
        assert max(waited) <= AWAY_SECONDS + 1
        assert shelf.tries <= count * (12 + seconds / 30) + seconds / 5, "it did not hammer"

    play(story)


def test_one_file_that_cannot_be_put_is_not_taken_for_a_store_that_is_away() -> None:
    async def story(one: Life, vendor: FileVendor, host: Host, shelf: Shelf) -> None:
        sick = away(HOUR / 2)
        shelf.fault = lambda key, count: sick(key, count) if "video_0" in key else None
        await one.create("video_0")
        await asyncio.sleep(300)
        tries = shelf.tries
        for number in range(1, 60):
            await one.create(f"video_{number}")
            await stored(one, f"video_{number}")
            await asyncio.sleep(5)
        assert shelf.tries - tries - 59 <= 30, "the others' success brings no more tries than its own pauses"
        await stored(one, "video_0")

    play(story)


def test_a_file_that_is_followed_elsewhere_by_now_puts_no_other_off(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def story(one: Life, vendor: FileVendor, host: Host, shelf: Shelf) -> None:
        sick, host.seconds = away(HOUR / 2), 1.0
        shelf.fault = lambda key, count: sick(key, count) if count is None else None
        await one.create("video_9")
        await one.end("video_9")
        await asyncio.sleep(0.5)
        assert shelf.under_way == 1
        one.engine.forget("video_9")  # another replica took it over
        for number in range(2):
            await one.create(f"video_{number}")
        assert max(await stored_after(one, HOUR / 2, 2)) <= AWAY_SECONDS + 5

    play(story)
    assert "step_failed" not in capsys.readouterr().out


def test_polls_that_failed_before_a_video_was_done_do_not_put_its_file_off() -> None:
    async def story(one: Life, vendor: FileVendor, host: Host, shelf: Shelf) -> None:
        vendor.denies = AWAY
        await one.create("video_0")
        await asyncio.sleep(HOUR / 2)
        vendor.denies = None

        def once(request: httpx.Request) -> httpx.Response | None:
            return httpx.Response(503) if len(host.asked) == 1 else None

        host.fault = once
        done = await one.end("video_0")
        task = await stored(one, "video_0")
        assert task.file is not None
        assert task.file.stored_at - (done.completed_at or 0) < 2

    play(story)
