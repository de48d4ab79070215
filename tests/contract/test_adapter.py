"""The contract that every adapter of the register keeps, over a real socket and the real `VendorHTTP`.

Held here: the suite. Not held here: what a vendor is sent and answers (`recordings/NAME.yaml`), and what a
broken connection proves (`tests/providers`). An adapter of another package joins with its recordings, in the
folder that REELGATE_RECORDINGS names.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import AsyncIterator, Iterator
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
import pytest

from providers import adapters
from providers.http import Account, VendorHTTP
from providers.refusals import refusals
from providers.spec import Adapter, AdapterInfo, Shot, VendorError, VideoRequest
from providers.transport import Transport, tls_context
from tests.contract.recorded import Limits, NoDoor, Subject, filled, load, validator
from tests.providers.wire import Wire, answer, serve

pytestmark = pytest.mark.anyio

KEY = "sk_contract-0123456789"
TLS = tls_context()  # read once: it costs more than any test here
GOOD_IDS = ("c0ffee00-1234-4abc-8def", "task-unified-1757165031-uyujaw3d", "a:b=c+d@e~f", "7" * 256)
BAD_IDS: tuple[object, ...] = (
    "", " ", "a b", "x" * 10_240, "7" * 257, "..", "a/../b", "a\nb", "a?b", "ä", None, 17, True, [], {},
)
JUNK = (
    b"", b"null", b"[]", b'"c0ffee"', b"<html>200</html>", b'{"task_id": "c0ffee', b"[" * 99_999, b"\xff{}",
)


SUBJECTS = [load(info) for info in adapters().values()]
each_adapter = pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.info.name)
each_offering = pytest.mark.parametrize(
    ("subject", "slug"),
    [pytest.param(one, slug, id=f"{one.info.name}-{slug}") for one in SUBJECTS for slug in one.sold],
)


@contextlib.asynccontextmanager
async def vendor(info: AdapterInfo, body: bytes, status: int = 200) -> AsyncIterator[tuple[Adapter, Wire]]:
    """The adapter, and the server that answers each of its calls with `body`."""
    async with serve(answer(body, f"{status} Recorded")) as wire, contextlib.AsyncExitStack() as stack:
        fresh, pooled = Transport(fresh=True, tls=TLS), Transport(tls=TLS)
        stack.push_async_callback(fresh.aclose)
        stack.push_async_callback(pooled.aclose)
        account = Account(base_url=wire.url, api_key=KEY, auth_scheme=info.auth_scheme)
        door = VendorHTTP(account, fresh=fresh, pooled=pooled, observe=lambda *_: None)
        yield info.build(door), wire


async def submitted(subject: Subject, body: bytes, status: int = 200) -> object:
    """What the adapter makes of this answer to a minimal request: a Submitted or a VendorError."""
    slug, sold = next(iter(subject.sold.items()))
    async with vendor(subject.info, body, status) as (adapter, wire):
        try:
            return await adapter.submit(sold.calls["minimal"].request, subject.offering(slug))
        except VendorError as error:
            return error
        finally:
            assert len(wire.requests) == 1, "a paid call is sent once, whatever the answer"


async def polled(subject: Subject, body: bytes, status: int = 200) -> object:
    async with vendor(subject.info, body, status) as (adapter, _):
        try:
            return msgspec.to_builtins(await adapter.poll({"task_id": "c0ffee"}))
        except VendorError as error:
            return error


def proves(error: object) -> tuple[str, str]:
    assert isinstance(error, VendorError), error
    assert KEY not in error.message
    return error.kind, error.outcome


def exact(value: object) -> str:
    """JSON text, in which 1, 1.0 and true differ."""
    return json.dumps(value, sort_keys=True)


# ---- what is sold, and what is sent ----


@each_adapter
def test_every_offering_is_recorded(subject: Subject) -> None:
    assert list(subject.sold) == [row.slug for row in subject.info.offerings]


@each_offering
async def test_exactly_the_recorded_request_is_sent(subject: Subject, slug: str) -> None:
    sold, row = subject.sold[slug], subject.offering(slug)
    assert {"minimal", "full", "edge"} <= set(sold.calls)
    assert row.shots is None or any(call.request.shots for call in sold.calls.values())
    created = json.dumps(filled(subject.answers.created[0], ID="c0ffee")).encode()
    async with vendor(subject.info, created) as (adapter, wire):
        for name, recorded in sold.calls.items():
            assert refusals(row, recorded.request) == [], name
            await adapter.submit(recorded.request, row)
            head, _, sent = wire.requests[-1].partition(b"\r\n\r\n")
            line, *headers = head.decode().split("\r\n")
            call = adapter.call(recorded.request, row)
            assert line == f"POST {sold.path} HTTP/1.1", name
            assert f"Authorization: {subject.info.auth_scheme} {KEY}" in headers
            assert "Content-Type: application/json" in headers
            assert exact(json.loads(sent)) == exact(recorded.body) == exact(call.body), name
            assert call.path == sold.path
            validator(subject, sold.path).validate(json.loads(sent))


def base(limits: Limits) -> VideoRequest:
    """The least request that an offering with these limits takes."""
    return msgspec.convert(
        {
            "model": limits.model,
            "prompt": "a",
            "image": "https://images.example/a.png" if limits.image_forms else None,
            "resolution": limits.resolutions[0],
            "aspect_ratio": next(iter(limits.aspect_ratios), None),
            "duration": limits.durations[0],
        },
        VideoRequest,
    )


def with_shots(limits: Limits, *shots: Shot) -> dict[str, object]:
    """Beside an image the prompt stays; without, shots replace it."""
    return {"shots": shots} if limits.image_forms else {"shots": shots, "prompt": None}


FORMS = {"url": "https://images.example/b.jpg", "data_uri": "data:image/png;base64,iVBORw0KGgo="}


def changes(limits: Limits) -> Iterator[tuple[bool, str, dict[str, object]]]:
    """Whether it is taken, the field, and a change of the least request: limits at their edge and beyond."""
    most, shots, voices = limits.negative_prompt, limits.shots, limits.voice_ids
    yield True, "prompt", {"prompt": "é" * limits.prompt}
    yield True, "prompt", {"prompt": "🎬" * limits.prompt}  # code points, neither bytes nor UTF-16 units
    yield False, "prompt", {"prompt": "a" * (limits.prompt + 1)}
    yield most is not None, "negative_prompt", {"negative_prompt": "é" * (most or 1)}
    yield False, "negative_prompt", {"negative_prompt": "a" * ((most or 0) + 1)}
    for word in ("720p", "1080p", "4k"):
        yield word in limits.resolutions, "resolution", {"resolution": word}
    for word in ("16:9", "9:16", "1:1"):
        yield word in limits.aspect_ratios, "aspect_ratio", {"aspect_ratio": word}
    for seconds in range(22):
        yield seconds in limits.durations, "duration", {"duration": seconds}
    yield shots > 0, "shots", with_shots(limits, *[Shot("é" * limits.shot_prompt, 1)] * max(shots, 1))
    yield False, "shots", with_shots(limits, *[Shot("a", 1)] * (shots + 1))
    yield False, "shots", with_shots(limits, Shot("a" * (limits.shot_prompt + 1), 5))
    yield False, "shots", with_shots(limits, Shot("a", 5), Shot("a", 0))
    yield voices > 0, "voice_ids", {"voice_ids": ("v",) * max(voices, 1), "audio": limits.audio}
    yield False, "voice_ids", {"voice_ids": ("v",) * (voices + 1), "audio": limits.audio}
    yield limits.cfg_scale, "cfg_scale", {"cfg_scale": 0.0}
    yield limits.cfg_scale, "cfg_scale", {"cfg_scale": 1.0}
    yield limits.audio, "audio", {"audio": True}
    yield False, "model", {"model": "another"}
    yield False, "image", {"image": None if limits.image_forms else FORMS["url"]}
    for form, value in FORMS.items() if limits.image_forms else ():
        yield form in limits.image_forms, "image", {"image": value}
        yield limits.end_image and form in limits.image_forms, "end_image", {"end_image": value}


@each_offering
def test_every_limit_holds_at_its_edge_and_not_beyond(subject: Subject, slug: str) -> None:
    limits, row = subject.sold[slug].limits, subject.offering(slug)
    adapter, schema = subject.info.build(NoDoor()), validator(subject, subject.sold[slug].path)
    for taken, field, change in changes(limits):
        request = msgspec.structs.replace(base(limits), **change)
        found = refusals(row, request)
        assert [refusal.param for refusal in found] == ([] if taken else [field]), (field, str(change)[:60])
        assert all(refusal.reason for refusal in found)
        if taken:
            schema.validate(adapter.call(request, row).body)


@each_offering
def test_the_published_row_is_the_documented_one(subject: Subject, slug: str) -> None:
    limits, row = subject.sold[slug].limits, subject.offering(slug)
    assert (row.mode, row.on_by_default) == (limits.mode, limits.default)
    assert row.result_link_seconds == limits.link_seconds
    assert row.failed_is_charged == limits.failed_is_charged


# ---- answers to a submit ----


@each_adapter
@pytest.mark.parametrize("status", [200, 201, 202])
async def test_a_created_task_is_known_by_its_id(subject: Subject, status: int) -> None:
    for template in subject.answers.created:
        for task_id in GOOD_IDS:
            result = await submitted(subject, json.dumps(filled(template, ID=task_id)).encode(), status)
            shown = msgspec.to_builtins(result)
            assert shown["vendor_task_id"] == task_id
            assert shown["estimate_seconds"] == subject.answers.estimate_seconds


@each_adapter
async def test_an_unusable_id_leaves_the_submit_unknown(subject: Subject) -> None:
    for template in subject.answers.created:
        for task_id in BAD_IDS:
            result = await submitted(subject, json.dumps(filled(template, ID=task_id)).encode())
            assert proves(result) == ("junk", "unknown"), task_id


@each_adapter
async def test_a_success_without_a_task_leaves_the_submit_unknown(subject: Subject) -> None:
    for body in [*JUNK, *(json.dumps(template).encode() for template in subject.answers.not_created)]:
        assert proves(await submitted(subject, body)) == ("junk", "unknown"), body[:60]
    assert proves(await submitted(subject, b"", 204)) == ("junk", "unknown")


@each_adapter
async def test_every_error_word_has_its_kind(subject: Subject) -> None:
    for reason, status, kind, outcome, asked in subject.answers.errors:
        for template in subject.answers.error_bodies:
            body = json.dumps(filled(template, REASON=reason, STATUS=status)).encode()
            refused, unasked = await submitted(subject, body, status), await polled(subject, body, status)
            assert proves(refused) == (kind, outcome), (reason, status)
            assert proves(unasked) == (asked, "unknown"), (reason, status)
            assert isinstance(refused, VendorError)
            assert refused.status == status
            assert refused.message == "words"


@each_adapter
async def test_answers_that_are_no_error_object(subject: Subject) -> None:
    for status, text, kind, outcome in subject.answers.texts:
        assert proves(await submitted(subject, text.encode(), status)) == (kind, outcome), (status, text)


# ---- answers to a poll ----


@each_adapter
async def test_a_poll_asks_for_the_very_task(subject: Subject) -> None:
    asks = subject.answers.asks
    created, still = subject.answers.created[0], next(iter(subject.answers.polls.values())).answer
    for task_id in GOOD_IDS:
        result = await submitted(subject, json.dumps(filled(created, ID=task_id)).encode())
        same = json.dumps(still).replace('"c0ffee"', json.dumps(task_id)).encode()
        async with vendor(subject.info, same) as (adapter, wire):
            await adapter.poll(msgspec.to_builtins(result)["ref"])
        method, target, _ = wire.requests[0].partition(b"\r\n")[0].decode("ascii").split(" ")
        url = urlsplit(target)
        assert (method, unquote(url.path)) == ("GET", filled(asks.path, ID=task_id))
        assert dict(parse_qsl(url.query)) == filled({**asks.query}, ID=task_id)
        assert f"Authorization: {subject.info.auth_scheme} {KEY}".encode() in wire.requests[0].split(b"\r\n")


@each_adapter
async def test_every_recorded_answer_has_its_meaning(subject: Subject) -> None:
    for name, poll in subject.answers.polls.items():
        result = await polled(subject, json.dumps(filled(poll.answer, KEY=KEY)).encode())
        assert exact(result) == exact(poll.means), name


@each_adapter
async def test_what_cannot_be_read_was_not_asked(subject: Subject) -> None:
    for body in [*JUNK, *(json.dumps(template).encode() for template in subject.answers.unreadable)]:
        assert proves(await polled(subject, body)) == ("junk", "unknown"), body[:60]


@each_adapter
async def test_a_vendors_word_cannot_flood_or_forge_a_log_line(subject: Subject) -> None:
    recorded = subject.answers.polls["a new word"]
    word = recorded.means["raw_status"]
    hostile = json.dumps(recorded.answer).replace(str(word), "x\\r\\nforged: " + "y" * 10_000)
    result = await polled(subject, hostile.encode())
    assert isinstance(result, dict)
    assert len(result["raw_status"]) <= 500
    assert result["raw_status"].isprintable()


@each_adapter
def test_the_recordings_leave_no_word_of_the_tables_out(subject: Subject) -> None:
    protocol = sys.modules[type(subject.info.build(NoDoor())).__module__]
    assert set(protocol.ERRORS) <= {row[0] for row in subject.answers.errors}
    assert set(protocol.STATES) <= {str(poll.means["raw_status"]) for poll in subject.answers.polls.values()}
