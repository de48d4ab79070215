"""Providers at run time: routing over them, reloads, and what each keeps of its work.

Not held here: how a route is chosen (`tests/core`), reading the configuration (`tests/test_settings.py`).
"""

from __future__ import annotations

import asyncio
import base64
import random

import httpx
import msgspec
import pytest
from msgspec.structs import replace

from gateway.core.facts import Cancelled, Candidate
from gateway.core.render_times import Kind
from gateway.engine.collect import LinkRefused, Links, LinkUnreachable, open_link
from gateway.engine.provider import NO_JOB, Fleet, make_provider
from gateway.engine.request import load_request, split_request
from gateway.engine.turns import ASKING_MAX
from gateway.settings import Secret, Settings
from providers.egress import AddressPolicy
from providers.spec import Progress, Ref, VendorError, VideoRequest
from tests.engine.life import (
    AskableVendor,
    ScriptedVendor,
    SwitchedVendor,
    accepted,
    configured,
    done,
    life,
    pending,
)
from tests.virtual import run_virtual

PRO = "kling-v3.0-pro-t2v"
REQUEST = VideoRequest(model="kling-v3", prompt="a fox", resolution="1080p", aspect_ratio="16:9")
PRICE = f'prices = {{{{ "{PRO}" = {{{{ per_request = "{{}}" }}}} }}}}'


def fleet(settings: Settings, before: Fleet | None = None) -> Fleet:
    """The configured providers; at a reload those of the fleet `before` go on."""
    made = before or Fleet(random.Random(1))
    vendor = AskableVendor()
    entries = settings.providers.values()
    made.use(settings, [make_provider(entry, vendor, made.providers.get(entry.name)) for entry in entries])
    return made


def names(made: Fleet, *pins: str) -> list[str]:
    return [candidate.provider for candidate in made.route(REQUEST, pins).candidates]


# --- routing ------------------------------------------------------------------------------------------

def test_the_cheapest_by_the_configured_prices() -> None:
    settings = configured(
        routing='strategy = "cheapest"', one=PRICE.format("0.9"), two=PRICE.format("0.3"))
    assert names(fleet(settings)) == ["two", "one"]
    assert names(fleet(settings), "one") == ["one"]
    unknown = configured(routing='strategy = "cheapest"', two=PRICE.format("0.3"))
    assert names(fleet(unknown)) == ["two", "one"], "what has no price comes last"


def test_the_fastest_by_what_was_learned() -> None:
    made = fleet(configured(routing='strategy = "fastest"'))
    kind = Kind(REQUEST.duration, REQUEST.audio)
    made.learned.learn(Candidate("one", PRO), kind, 98.0, 102.0)
    assert names(made) == ["two", "one"], "what was never tried comes first"
    made.learned.learn(Candidate("two", PRO), kind, 48.0, 52.0)
    assert names(made) == ["two", "one"]
    for _ in range(20):
        made.learned.learn(Candidate("two", PRO), kind, 198.0, 202.0)
    assert names(made) == ["one", "two"]


def test_an_operators_drain_takes_a_provider_out_of_the_routes_and_a_pause_does_not() -> None:
    made = fleet(configured())
    made.providers["one"].health.hold = "drain"
    route = made.route(REQUEST, ())
    assert [candidate.provider for candidate in route.candidates] == ["two"]
    drained = {refused.candidate.provider: refused.reasons[0].reason for refused in route.refused}
    assert drained["one"] == "is draining and takes nothing new"
    made.providers["one"].health.hold = "pause"
    assert names(made) == ["one", "two"]


def test_a_fleet_without_a_configuration_says_so() -> None:
    with pytest.raises(RuntimeError, match="before it was given its settings"):
        Fleet(random.Random(1)).route(REQUEST, ())


# --- reloads ------------------------------------------------------------------------------------------

def test_a_reload_keeps_what_a_provider_counts_and_knows() -> None:
    made = fleet(configured(one="max_in_flight = 5"))
    one = made.providers["one"]
    assert one.gate.enter(1.0)
    made.hold("one", "pause")
    one.last_ref = {"id": "v-1"}
    fleet(configured(one="max_in_flight = 9\nrequests_per_minute = 3"), made)
    after = made.providers["one"]
    assert after is not one
    assert after.gate is one.gate
    assert (after.gate.in_flight, after.gate.max_in_flight, after.gate.rate.per_minute) == (1, 9, 3)
    assert (after.health.hold, after.last_ref) == ("pause", {"id": "v-1"})


def test_an_order_is_obeyed_also_by_a_provider_that_comes_later_and_until_it_is_lifted() -> None:
    both = configured()
    made = fleet(msgspec.structs.replace(both, providers={"two": both.providers["two"]}))
    made.hold("one", "drain")
    fleet(both, made)
    assert (made.providers["one"].state(0.0), names(made)) == ("draining", ["two"])
    made.hold("one", None)
    made.hold("nobody", None)
    fleet(both, made)
    assert sorted(names(made)) == ["one", "two"]


def test_a_provider_that_is_removed_drains_and_one_that_comes_back_takes_tasks_again() -> None:
    both = configured()
    only = msgspec.structs.replace(both, providers={"two": both.providers["two"]})
    made = fleet(both)
    fleet(only, made)
    assert made.providers["one"].state(0.0) == "draining"
    assert names(made) == ["two"]
    assert {listing.provider for listing in made.listings} == {"two"}
    assert made.find(Candidate("one", PRO)) is not None, "its tasks are still followed"
    fleet(both, made)
    assert made.providers["one"].state(0.0) == "healthy"
    assert sorted(names(made)) == ["one", "two"]


def test_a_job_of_another_vendor_is_not_asked_for_after_its_adapter_was_changed() -> None:
    both = configured()
    made = fleet(both)
    made.providers["one"].last_ref = {"id": "v-1"}
    assert made.providers["one"].probe_ref() == {"id": "v-1"}
    entry = replace(both.providers["one"], adapter=both.providers["two"].adapter)
    fleet(replace(both, providers={**both.providers, "one": entry}), made)
    assert made.providers["one"].probe_ref() == {"id": NO_JOB}


@pytest.mark.parametrize("mended", ["api_key", "base_url", "adapter"])
def test_who_refused_us_is_tried_at_once_where_its_account_was_mended(mended: str) -> None:
    both = configured()
    made = fleet(both)
    before, other = both.providers["one"], both.providers["two"]
    made.providers["one"].health.refused(1.0, random.Random(1))
    fleet(both, made)
    assert made.providers["one"].state(1.0) == "paused", "nothing was mended"
    news = {"api_key": Secret("another"), "base_url": "https://eu.internal", "adapter": other.adapter}
    entry = replace(before, **{mended: news[mended]})
    fleet(replace(both, providers={**both.providers, "one": entry}), made)
    assert made.providers["one"].state(1.0) == "healthy"


def test_what_a_free_call_can_ask_for() -> None:
    entry = configured().providers["one"]
    assert make_provider(entry, AskableVendor()).probe_ref() == {"id": NO_JOB}
    assert make_provider(entry, SwitchedVendor()).probe_ref() is None


def test_one_job_alone_is_not_all_that_a_free_call_asks_for() -> None:
    entry = configured().providers["one"]
    askable, silent = make_provider(entry, AskableVendor()), make_provider(entry, SwitchedVendor())
    askable.last_ref = silent.last_ref = {"id": "v-1"}
    assert [askable.probe_ref() for _ in range(4)] == [{"id": "v-1"}, {"id": NO_JOB}] * 2
    assert [silent.probe_ref() for _ in range(4)] == [{"id": "v-1"}] * 4


def test_what_a_reload_takes_away_between_its_turn_and_its_step_is_not_sent() -> None:
    async def main() -> None:
        vendor = SwitchedVendor()
        async with life({"one": vendor}) as one:
            provider = one.fleet.providers["one"]
            known = dict(provider.known)
            ready = one.engine.line.ready

            def reloading(*args: object) -> object:
                going = ready(*args)  # type: ignore[arg-type]
                if going:
                    provider.known.clear()
                return going

            one.engine.line.ready = reloading  # type: ignore[method-assign, assignment]
            await one.create()
            await asyncio.sleep(10)
            assert (vendor.sent, provider.gate.in_flight, provider.gate.sending) == ([], 0, 0)
            one.engine.line.ready = ready  # type: ignore[method-assign]
            provider.known.update(known)
            one.engine.look()
            assert (await one.end()).state == "completed"

    run_virtual(main())


# --- the work under way -------------------------------------------------------------------------------

class Hanging(SwitchedVendor):
    """Whose polls take ten seconds. `most` were under way at once."""

    asking = most = 0

    async def poll(self, ref: Ref) -> Progress:
        """Late."""
        self.asking += 1
        self.most = max(self.most, self.asking)
        await asyncio.sleep(10)
        self.asking -= 1
        return await super().poll(ref)


def test_a_vendor_that_hangs_leaves_the_others_their_share() -> None:
    async def main() -> None:
        hanging, quick = Hanging(renders=20), SwitchedVendor(renders=5)
        async with life({"one": hanging, "two": quick}) as one:
            for number in range(ASKING_MAX + 30):
                await one.create(f"slow_{number}")
            await one.create("quick", providers=("two",))
            task = await one.end("quick")
            assert task.completed_at is not None
            assert task.completed_at - task.created_at < 10
            for number in range(ASKING_MAX + 30):
                assert (await one.end(f"slow_{number}")).state == "completed"
            assert hanging.most == ASKING_MAX

    run_virtual(main())


class Slow(ScriptedVendor):
    """Takes `delay` seconds to answer a poll. `fault` is raised instead, if there is one."""

    delay = 10.0
    fault: Exception | None = None

    async def poll(self, ref: Ref) -> Progress:
        """The next line of the script, late."""
        await asyncio.sleep(self.delay)
        if self.fault is not None:
            raise self.fault
        return await super().poll(ref)


@pytest.mark.parametrize(
    "fault", [None, VendorError("timeout", "unknown", "no answer"), ZeroDivisionError()],
    ids=["answer", "no answer", "fault"],
)
def test_a_task_that_another_process_took_while_it_was_asked_for_is_let_go(fault: Exception | None) -> None:
    async def main() -> None:
        vendor = Slow([accepted()], [pending("QUEUED")])
        vendor.fault = fault
        async with life({"one": vendor}) as one:
            await one.create()
            task = await one.until(lambda task: task.state == "rendering")
            await asyncio.sleep(12)
            one.engine.saved(replace(task, replica="another"), ())
            await asyncio.sleep(600)
            assert (one.engine.tasks, one.engine.watches, vendor.asked) == ({}, {}, int(fault is None))

    run_virtual(main())


@pytest.mark.parametrize("delay", [10.0, 200.0])
def test_a_video_that_comes_while_its_caller_detaches_is_kept_as_late(delay: float) -> None:
    async def main() -> None:
        vendor = Slow([accepted()], [done()])
        vendor.delay = delay
        async with life({"one": vendor}) as one:
            await one.create()
            await one.until(lambda task: task.state == "rendering")
            await asyncio.sleep(12)
            await one.happens(Cancelled(detach=True))
            task = await one.until(lambda task: task.late_url is not None)
            assert task.state == "cancelled"
            assert one.now() - task.created_at < delay + 12, "by the very poll that was under way"
            assert vendor.asked == 1

    run_virtual(main())


# --- requests and links -------------------------------------------------------------------------------

def test_image_bytes_are_kept_apart_and_put_back_for_the_vendor() -> None:
    async def main() -> None:
        image = "data:image/png;base64," + base64.b64encode(b"a picture").decode()
        request = replace(REQUEST, image=image, end_image="https://images.example/b.png", aspect_ratio=None)
        text, inputs = split_request(request)
        shown = msgspec.json.decode(text)
        assert inputs == {"image": image}
        assert (shown["image"]["bytes"], shown["end_image"]) == (9, "https://images.example/b.png")
        assert image not in text
        async with life() as one:
            one.fleet.providers["one"].health.hold = "pause"
            await one.create()
            assert await load_request(one.store, "video_1") == REQUEST

    run_virtual(main())


class Redirects(httpx.AsyncBaseTransport):
    """Sends everybody on to the same place."""

    def __init__(self, location: str) -> None:
        self.location = location

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Elsewhere."""
        return httpx.Response(302, headers={"Location": self.location}, stream=httpx.ByteStream(b""))


@pytest.mark.parametrize(
    ("location", "why", "error"),
    [("http://[::1", "redirects to what is no URL", LinkRefused),
     ("/again", "redirects more than 3 times", LinkRefused),
     # Where it leads the next time nobody knows.
     ("http://169.254.169.254/", "redirects to one that leads to a forbidden address", LinkUnreachable)],
)
def test_a_link_that_leads_nowhere_is_refused(location: str, why: str, error: type[Exception]) -> None:
    async def main() -> None:
        links = Links(AddressPolicy(), {"public": Redirects(location)})
        with pytest.raises(error, match=why):
            await open_link(links, "https://files.example/v.mp4", None)

    run_virtual(main())
