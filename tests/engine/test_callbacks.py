"""Vendors that call back, row by row of the fault matrix: whatever a call says, it is a reason to poll.

The vendor is scripted and signs its calls as Standard Webhooks says. Not held here: the route
(`tests/api/test_callbacks.py`), which in-tree adapters take calls (`tests/faults`: none).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from gateway.engine.callbacks import Callbacks, introduce, receiver, token_of
from gateway.storage import news
from gateway.storage.db import StorageError
from tests.engine.life import Life, SwitchedVendor, life
from tests.virtual import run_virtual

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
JOB = "v-1-0"  # the first that a SwitchedVendor gives


class CallingVendor(SwitchedVendor):
    """One that calls back. It renders for a minute."""

    def __init__(self) -> None:
        super().__init__(renders=60.0)
        self.url = ""

    def call_back_at(self, url: str) -> None:
        """Where to."""
        self.url = url

    def read_callback(self, headers: Mapping[str, str], body: bytes) -> str | None:
        """The job, if the call is signed and not old."""
        try:
            content = Webhook(SECRET).verify(body, dict(headers))
        except WebhookVerificationError:
            return None
        return str(content["job"])


def called(
    job: str = JOB, said: str = "SUCCEED", age: timedelta = timedelta()
) -> tuple[dict[str, str], bytes]:
    """A call as the vendor makes it."""
    body, at = f'{{"job": "{job}", "status": "{said}"}}', datetime.now(UTC) - age
    signature = Webhook(SECRET).sign("msg_1", at, body)
    headers = {"webhook-id": "msg_1", "webhook-timestamp": str(int(at.timestamp()))}
    return headers | {"webhook-signature": signature}, body.encode()


class Stage:
    """A life at `one`, whose vendor calls back."""

    def __init__(self, life_: Life, vendor: CallingVendor) -> None:
        self.life, self.vendor = life_, vendor
        self.callbacks = Callbacks(life_.engine)

    async def call(self, headers: Mapping[str, str], body: bytes, provider: str = "one") -> str:
        """What becomes of a call."""
        return await self.callbacks.take(self.life.fleet.providers[provider], self.vendor, headers, body)

    async def rendering(self) -> None:
        """A video that is rendering, in the middle between two polls."""
        await self.life.order()
        await self.life.until(lambda task: task.state == "rendering")

    async def polled(self) -> float:
        """How long it takes, up to a second, until the vendor is asked once more."""
        loop, asked = asyncio.get_running_loop(), len(self.vendor.asked_at)
        began = loop.time()
        for _ in range(1_000):
            if len(self.vendor.asked_at) > asked:
                break
            await asyncio.sleep(0.001)
        return loop.time() - began


@asynccontextmanager
async def stage(poll_min: str = "30s") -> AsyncIterator[Stage]:
    vendor = CallingVendor()
    async with life({"one": vendor}, one=f'poll_min = "{poll_min}"\npoll_max = "10m"') as made:
        yield Stage(made, vendor)


def told(story: Callable[[Stage], Coroutine[None, None, None]]) -> None:
    async def whole() -> None:
        async with stage() as one:
            await story(one)

    run_virtual(whole())


def test_a_call_makes_the_poll_due_now() -> None:
    async def story(one: Stage) -> None:
        await one.rendering()
        await asyncio.sleep(1)
        assert await one.call(*called()) == "polled"
        assert await one.polled() < 0.1
        assert await one.life.states("video_1") == ["rendering"]  # whatever it said, the vendor was asked

    told(story)


def test_row_60_a_call_that_comes_twice_is_taken_once() -> None:
    async def story(one: Stage) -> None:
        await one.rendering()
        call = called()
        assert [await one.call(*call) for _ in range(3)] == ["polled", "repeated", "repeated"]

    told(story)


def test_a_call_that_could_not_be_passed_on_is_taken_when_it_comes_again(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(one: Stage) -> None:
        await one.rendering()
        one.life.engine.replica = "another"
        monkeypatch.setattr(type(one.life.database), "is_shared", True)
        passed, call = list[str](), called()

        async def pass_on(text: str) -> None:
            passed.append(text)
            if len(passed) == 1:
                raise StorageError("away")

        monkeypatch.setattr(one.life.store, "pass_on", pass_on)
        with pytest.raises(StorageError):
            await one.call(*call)
        assert [await one.call(*call) for _ in range(2)] == ["passed_on", "repeated"]

    told(story)


def test_row_61_calls_out_of_order_end_where_the_vendor_is() -> None:
    async def story(one: Stage) -> None:
        await one.rendering()
        await asyncio.sleep(61)
        for said in ("SUCCEED", "RUNNING", "QUEUED"):
            await one.call(*called(said=said))
        assert (await one.life.end()).state == "completed"
        assert await one.call(*called(said="FAILED")) == "ignored"
        assert await one.life.states("video_1") == ["completed"]

    told(story)


def test_row_62_a_call_before_our_submit_is_answered_changes_nothing() -> None:
    async def story(one: Stage) -> None:
        await one.life.order()
        call = called()
        assert await one.call(*call) == "ignored"
        await one.life.until(lambda task: task.state == "rendering")
        assert await one.call(*call) == "polled"  # it was not remembered as one that was taken
        assert len(one.vendor.sent) == 1

    told(story)


@pytest.mark.parametrize("age", [timedelta(minutes=10), timedelta(hours=-1), timedelta(hours=1)],
                         ids=["row 64", "row 67 ahead", "row 67 behind"])
def test_a_call_at_another_time_is_ignored(age: timedelta) -> None:
    async def story(one: Stage) -> None:
        await one.rendering()
        assert await one.call(*called(age=age)) == "ignored"
        assert await one.polled() > 0.9

    told(story)


def test_row_63_a_forged_call_is_ignored() -> None:
    async def story(one: Stage) -> None:
        await one.rendering()
        headers, body = called()
        assert await one.call(headers, body + b" ") == "ignored"
        assert await one.call({}, body) == "ignored"
        assert await one.polled() > 0.9

    told(story)


@pytest.mark.parametrize(("job", "provider"), [("nobody", "one"), (JOB, "two")],
                         ids=["row 65", "row 66: the id of a job at another provider"])
def test_a_call_about_nothing_of_ours_is_ignored(job: str, provider: str) -> None:
    async def story(one: Stage) -> None:
        await one.rendering()
        assert await one.call(*called(job), provider) == "ignored"
        assert await one.polled() > 0.9

    told(story)


def test_many_calls_poll_no_more_often_than_is_allowed() -> None:
    async def story(one: Stage) -> None:
        await one.rendering()
        for number in range(100):
            await one.call(*called(said=str(number)))
            await asyncio.sleep(0.5)
        assert 1 <= len(one.vendor.asked_at) <= 3  # in 50 s, 30 s apart

    told(story)


def test_a_call_about_a_job_that_is_over_sends_and_asks_nothing() -> None:
    async def story(one: Stage) -> None:
        await one.rendering()
        await asyncio.sleep(61)
        await one.life.end()
        assert await one.call(*called()) == "ignored"
        assert await one.polled() > 0.9
        assert len(one.vendor.sent) == 1

    told(story)


def test_what_another_replica_says_is_polled_here() -> None:
    async def story(one: Stage) -> None:
        await one.rendering()
        await asyncio.sleep(1)
        one.callbacks._heard(news.of_callback("video_1", "another"))  # noqa: SLF001 - what a database calls
        assert await one.polled() > 0.9
        one.callbacks._heard(news.of_callback("video_1", "replica-1"))  # noqa: SLF001 - likewise
        assert await one.polled() < 0.1

    told(story)


def test_the_url_is_one_that_nobody_can_guess() -> None:
    async def story(one: Stage) -> None:
        provider = one.life.fleet.providers["one"]
        introduce(one.vendor, provider.settings, None)
        assert one.vendor.url == ""
        introduce(one.vendor, provider.settings, "https://video.example")
        head, _, token = one.vendor.url.rpartition("/")
        assert head == "https://video.example/v1/callbacks/one"
        assert token == token_of(provider.settings) != token_of(one.life.fleet.providers["two"].settings)
        assert len(token) == 64
        assert receiver(provider, token) is one.vendor
        for wrong in ("", token[:-1], token.upper(), "é"):
            assert receiver(provider, wrong) is None
        assert receiver(one.life.fleet.providers["two"], token) is None
        assert receiver(None, token) is None

    told(story)
