"""Each fault does what its row says, seen from a bare socket: the bytes, how the connection ended, what was charged.

Held here: one check per row of the table, and how faults are chosen. Not held here: what a gateway makes of them.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import math
from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

import httpx
import pytest

from gateway.sandbox.admin import ArmRequest
from gateway.sandbox.faults import FAULTS, PHASES, Phase, arm, directives
from gateway.sandbox.probe import probe_stream
from gateway.sandbox.server import Sandbox
from tests.sandbox.conftest import SETTINGS, VirtualClock
from tests.sandbox.requests import PLAIN, create_path, poll_path

pytestmark = pytest.mark.anyio

_ENOUGH_BYTES = 3_000_000
_SILENCE_SECONDS = 0.05  # only ever waited for where nothing may come


class Seen(NamedTuple):
    """What came, and how it ended: `open` is silence, `more` is more than we care to read."""

    data: bytes
    end: Literal["fin", "rst", "open", "more"]

    @property
    def head(self) -> bytes:
        return self.data.partition(b"\r\n\r\n")[0]

    @property
    def body(self) -> bytes:
        return self.data.partition(b"\r\n\r\n")[2]

    @property
    def status(self) -> int:
        return int(self.data.split(b" ", 2)[1])

    def header(self, name: str) -> str:
        lines = [line.partition(b": ") for line in self.head.split(b"\r\n")[1:]]
        return next((value.decode() for key, _, value in lines if key.decode().lower() == name), "")

    def json(self) -> object:
        return json.loads(self.body)


class Stage:
    """A task at `vendor`, and the three calls as bytes."""

    def __init__(self, sandbox: Sandbox, vendor: str) -> None:
        self.sandbox, self.vendor, self.task_id, self.link = sandbox, vendor, "", ""

    def request(self, phase: Phase) -> bytes:
        slug, body = PLAIN[self.vendor]
        sent = json.dumps(body).encode() if phase == "submit" else b""
        paths = {"submit": create_path(self.vendor, slug), "poll": poll_path(self.vendor, self.task_id)}
        method, path = "POST" if phase == "submit" else "GET", paths.get(phase, self.link)
        lines = [
            f"{method} {path} HTTP/1.1", "host: sandbox", f"authorization: Bearer {SETTINGS.key}", "connection: close",
            "content-type: application/json", f"content-length: {len(sent)}", "", "",
        ]
        return "\r\n".join(lines).encode() + sent

    async def call(self, phase: Phase, silence_seconds: float | None = None) -> Seen:
        """Send one call and read until the end, or silence, or enough."""
        reader, writer = await asyncio.open_connection("127.0.0.1", int(self.sandbox.url.rsplit(":", 1)[1]))
        data = bytearray()
        try:
            writer.write(self.request(phase))
            while len(data) < _ENOUGH_BYTES:
                piece = await asyncio.wait_for(reader.read(65536), silence_seconds or 20)
                if not piece:
                    return Seen(bytes(data), "fin")
                data += piece
        except TimeoutError:
            return Seen(bytes(data), "open")
        except ConnectionResetError:
            return Seen(bytes(data), "rst")
        finally:
            writer.close()
        return Seen(bytes(data), "more")

    async def prepare(self, clock: VirtualClock) -> None:
        """Make a task that is done, and know its link."""
        made = (await self.call("submit")).json()
        assert isinstance(made, dict)
        self.task_id = made.get("task_id") or made["id"]
        clock.now += 101
        told = (await self.call("poll")).json()
        assert isinstance(told, dict)
        link = told["results"][0]["url"] if self.vendor == "unified" else told["videos"][0]["video_url"]
        self.link = link.removeprefix("http://sandbox")


Check: TypeAlias = Callable[[Seen, Seen], bool]


def answered(status: int, *parts: bytes) -> Check:
    return lambda seen, _: seen.end == "fin" and seen.status == status and all(part in seen.body for part in parts)


def refused(v3: int, unified: int, v3_word: bytes, unified_word: bytes) -> Check:
    def check(seen: Seen, plain: Seen) -> bool:
        both = (v3, v3_word) if b"code" in seen.body and b'"reason"' in seen.body else (unified, unified_word)
        return answered(both[0], both[1])(seen, plain)

    return check


def unreadable(seen: Seen, _plain: Seen) -> bool:
    try:
        seen.json()
    except (ValueError, RecursionError):
        return seen.end == "fin"
    return False


def id_is(wanted: Callable[[object], bool]) -> Check:
    def check(seen: Seen, _plain: Seen) -> bool:
        told = seen.json()
        assert isinstance(told, dict)
        return seen.status == 200 and wanted(told.get("task_id", told.get("id")))

    return check


def told(word_v3: str, word_unified: str, outputs: int | None) -> Check:
    """The status, and how many videos; None: no list."""

    def check(seen: Seen, _plain: Seen) -> bool:
        body = seen.json()
        assert isinstance(body, dict)
        videos = body.get("videos") if "task" in body else body["results"]
        word = body["task"]["status"] if "task" in body else body["status"]
        return word in {word_v3, word_unified} and (None if videos is None else len(videos)) == outputs

    return check


def unpacked(seen: Seen, _plain: Seen) -> bytes:
    body = seen.body
    for _ in seen.header("content-encoding").split(","):
        body = gzip.decompress(body)
    return body


def same(seen: Seen, plain: Seen) -> bool:
    """The right answer after all, whatever time-bound ids and links it has in it."""
    return seen.end == "fin" and seen.status == plain.status and abs(len(seen.body) - len(plain.body)) <= 4


CHECKS: dict[str, Check] = {
    "hang_before_work": lambda seen, _: seen == (b"", "open"),
    "hang": lambda seen, _: seen == (b"", "open"),
    "reset_before_work": lambda seen, _: seen == (b"", "rst"),
    "reset_after_accept": lambda seen, _: seen == (b"", "rst"),
    "close_after_accept": lambda seen, _: seen == (b"", "fin"),
    "reset_mid_headers": lambda seen, _: seen.end == "rst" and b"\r\n\r\n" not in seen.data,
    "reset_mid_body": lambda seen, plain: seen.end == "rst" and len(seen.body) < len(plain.body),
    "truncated_body": lambda seen, plain: seen.end == "fin" and len(seen.body) == int(
        seen.header("content-length")) // 2 and int(seen.header("content-length")) > len(plain.body) - 5,
    "length_too_high": lambda seen, _: seen.end == "fin" and int(
        seen.header("content-length")) == len(seen.body) + 100,
    "length_too_low": lambda seen, _: int(seen.header("content-length")) == len(seen.body) // 2,
    "late": same,
    "drip": same,
    "endless_headers": lambda seen, _: seen.end == "more" and b"\r\n\r\n" not in seen.data,
    "many_headers": lambda seen, plain: seen.head.count(b"\r\n") > 100_000 or (
        seen.end == "more" and same(plain, plain)),
    "huge_header": lambda seen, plain: max(map(len, seen.head.split(b"\r\n"))) > 1_000_000 and same(seen, plain),
    "endless_body": lambda seen, _: seen.end == "more" and seen.header("transfer-encoding") == "chunked",
    "huge_body": lambda seen, _: seen.end == "more" and seen.header("content-length") == "1000000004",
    "broken_chunk": lambda seen, _: seen.body.startswith(b"zz\r\n"),
    "not_http": lambda seen, _: not seen.data.startswith(b"HTTP/"),
    "gzip_bomb": lambda seen, plain: len(unpacked(seen, plain)) == 50_000_000 and len(seen.body) < 500_000,
    "stacked_encodings": lambda seen, plain: seen.header("content-encoding").count("gzip") == 50
    and json.loads(unpacked(seen, plain)) is not None,
    "invalid_json": unreadable,
    "html": answered(200, b"<html>"),
    "empty": lambda seen, _: seen.status == 200 and seen.body == b"",
    "bom": lambda seen, _: seen.body.startswith(b"\xef\xbb\xbf{"),
    "wrong_charset": lambda seen, plain: same(Seen(seen.body.decode("utf-16").encode(), "fin"), plain)
    if False else seen.body.decode("utf-16").startswith("{"),
    "nan": lambda seen, _: b"NaN" in seen.body,
    "huge_number": lambda seen, _: seen.body.count(b"9" * 10_000) == 2,
    "nested": unreadable,
    "duplicate_keys": lambda seen, _: len(json.loads(seen.body, object_pairs_hook=list)) == len(
        json.loads(seen.body)) + 1,
    "error_in_200": answered(200, b"CREATE_TASK_FAILED"),
    "status": answered(500, b"task"),
    "redirect": lambda seen, _: seen.status == 307 and seen.header("location").startswith("http://127.0.0.1:9"),
    "rate_limited": refused(429, 429, b"RATE_LIMIT_EXCEEDED", b"rate_limit_error"),
    "no_credit": refused(400, 402, b"BILLING_BALANCE_NOT_ENOUGH", b"insufficient_quota"),
    "key_revoked": refused(403, 401, b"INVALID_API_KEY", b"authentication_error"),
    "forbidden": refused(403, 403, b"FEATURE_NOT_ALLOWED", b"permission_error"),
    "model_removed": refused(404, 422, b"API_NOT_FOUND", b"model_not_found"),
    "invalid": refused(400, 400, b"INVALID_REQUEST_BODY", b"invalid_request_error"),
    "policy": refused(400, 400, b"ILLEGAL_PROMPT", b"content_policy_violation"),
    "capacity": refused(429, 422, b"RATE_LIMIT_EXCEEDED", b"no_compatible_channel"),
    "server_error": refused(500, 500, b"CREATE_TASK_FAILED", b"internal_error"),
    "server_error_after_accept": refused(500, 500, b"CREATE_TASK_FAILED", b"internal_error"),
    "unavailable": refused(503, 503, b"SERVICE_NOT_AVAILABLE", b"service_unavailable"),
    "maintenance": answered(503, b"<html>"),
    "id_missing": id_is(lambda told: told is None),
    "id_empty": id_is(lambda told: told == ""),
    "id_number": id_is(lambda told: told == 12345),
    "id_long": id_is(lambda told: told == "x" * 10_000),
    "id_path": id_is(lambda told: "/../" in str(told)),
    "id_newline": id_is(lambda told: "\r\n" in str(told)),
    "id_duplicate": lambda seen, plain: seen.body == plain.body or seen.json() != plain.json(),
    "not_found": refused(404, 404, b"TASK_NOT_FOUND", b"task_not_found"),
    "unknown_status": told("TASK_STATUS_BAKING", "TASK_STATUS_BAKING", 1),
    "status_case": told("task_status_succeed", "COMPLETED", 1),
    "stuck": told("TASK_STATUS_QUEUED", "pending", None),
    "backwards": told("TASK_STATUS_SUCCEED", "completed", 0),
    "flapping": same,
    "jumping_progress": lambda seen, _: b":80" in seen.body,
    "failed": told("TASK_STATUS_FAILED", "failed", None),
    "no_output": told("TASK_STATUS_SUCCEED", "completed", None),
    "empty_output": told("TASK_STATUS_SUCCEED", "completed", 0),
    "several_outputs": told("TASK_STATUS_SUCCEED", "completed", 3),
    "dead_link": lambda seen, _: b"/0000" in seen.body,
    "short_link": same,
    "no_ranges": lambda seen, plain: seen.header("accept-ranges") == "" and seen.body == plain.body,
    "other_bytes": lambda seen, plain: seen.body != plain.body and seen.body.startswith(plain.body),
    "html_file": answered(200, b"<html>"),
}

CASES = [(name, phase) for name, fault in FAULTS.items() for phase in fault.phases]


@pytest.mark.parametrize(("name", "phase"), CASES)
@pytest.mark.parametrize("vendor", ["highwayapi", "unified"])
async def test_fault_does_what_its_row_says(
    sandbox: Sandbox, clock: VirtualClock, vendor: str, name: str, phase: Phase
) -> None:
    stage = Stage(sandbox, vendor)
    await stage.prepare(clock)
    plain = await stage.call(phase)
    assert plain.status == 200
    charged = len(sandbox.ledger)
    sandbox.arm(ArmRequest(fault=name, vendor=vendor, phase=phase))
    seen = await stage.call(phase, _SILENCE_SECONDS if "hang" in name else None)
    if phase == "download" and FAULTS[name].error is not None:
        assert seen.status >= 400
    else:
        assert CHECKS[name](seen, plain), seen.data[:300]
    assert len(sandbox.ledger) - charged == (1 if phase == "submit" and FAULTS[name].works else 0)
    again = await stage.call(phase)
    assert (again.status, again.end) == (200, "fin")


def test_every_row_is_checked_and_does_one_thing() -> None:
    assert set(CHECKS) == set(FAULTS)
    for name, fault in FAULTS.items():
        does = [part for part in (fault.error, fault.bend, fault.retell, fault.send) if part is not None]
        assert len(does) == 1, name
        assert set(fault.phases) <= set(PHASES)
        assert fault.text, name


async def create(client: httpx.AsyncClient, prompt: str, vendor: str = "highwayapi") -> httpx.Response:
    slug, body = PLAIN[vendor]
    return await client.post(create_path(vendor, slug), json=body | {"prompt": prompt})


async def told_by_polls(client: httpx.AsyncClient, task_id: str, count: int) -> list[tuple[str, float]]:
    tasks = [(await client.get(poll_path("highwayapi", task_id))).json()["task"] for _ in range(count)]
    return [(task["status"].removeprefix("TASK_STATUS_"), task["progress_percent"]) for task in tasks]


@pytest.mark.parametrize(
    ("directive", "elapsed", "expected"),
    [
        ("backwards", 101, ["SUCCEED 100", "QUEUED 0", "SUCCEED 100"]),
        ("flapping", 57.5, ["PROCESSING 50", "QUEUED 50", "PROCESSING 50", "QUEUED 50"]),
        ("jumping_progress", 57.5, ["PROCESSING 80", "PROCESSING 20", "PROCESSING 150", "PROCESSING -5"]),
        ("stuck", 9e9, ["QUEUED 0", "QUEUED 0"]),
        ("failed", 57.5, ["PROCESSING 50", "PROCESSING 50"]),
        ("unknown_status word=BAKING times=2", 101, ["BAKING 100", "BAKING 100", "SUCCEED 100"]),
    ],
)
async def test_polls_tell_a_story(
    client: httpx.AsyncClient, clock: VirtualClock, directive: str, elapsed: float, expected: list[str]
) -> None:
    task_id = (await create(client, f"a fox [[fault:{directive}]]")).json()["task_id"]
    clock.now += elapsed
    seen = await told_by_polls(client, task_id, len(expected))
    assert [f"{word} {progress:g}" for word, progress in seen] == expected


async def test_a_task_is_not_known_for_a_while(client: httpx.AsyncClient) -> None:
    task_id = (await create(client, "a fox [[fault:not_found]]")).json()["task_id"]
    codes = [(await client.get(poll_path("highwayapi", task_id))).status_code for _ in range(3)]
    assert codes == [404, 404, 200]


async def test_failures_have_their_reason(client: httpx.AsyncClient, clock: VirtualClock) -> None:
    prompt = 'a fox [[fault:failed reason="illegal content" code=content_policy_violation]]'
    v3 = (await create(client, prompt)).json()["task_id"]
    unified = (await create(client, prompt, "unified")).json()["id"]
    clock.now += 101
    assert (await client.get(poll_path("highwayapi", v3))).json()["task"]["reason"] == "illegal content"
    assert (await client.get(poll_path("unified", unified))).json()["error"] == {
        "code": "content_policy_violation", "message": "illegal content", "type": "task_error",
    }


async def test_links_of_a_fault_lead_nowhere(client: httpx.AsyncClient, clock: VirtualClock) -> None:
    expected = {"dead_link": 404, "short_link": 403, "short_link times=0": 200}
    for directive, status in expected.items():
        task_id = (await create(client, f"a fox [[fault:{directive}]]")).json()["task_id"]
        clock.now += 101
        video = (await client.get(poll_path("highwayapi", task_id))).json()["videos"][0]
        assert video["video_url_ttl"] == "3600"
        assert (await client.get(video["video_url"])).status_code == status, directive


async def test_other_bytes_are_still_a_clip(client: httpx.AsyncClient, clock: VirtualClock) -> None:
    task_id = (await create(client, "a fox [[fault:other_bytes]]")).json()["task_id"]
    clock.now += 101
    link = (await client.get(poll_path("highwayapi", task_id))).json()["videos"][0]["video_url"]
    first, second = await client.get(link), await client.get(link)
    assert first.content != second.content
    assert first.headers["etag"] != second.headers["etag"]
    for answer in (first, second):
        assert probe_stream(__import__("io").BytesIO(answer.content)).width == 1280


async def test_drips_and_pauses_take_the_clocks_time(sandbox: Sandbox, clock: VirtualClock) -> None:
    stage = Stage(sandbox, "highwayapi")
    for name, least in {"drip": 100, "late": 5}.items():
        sandbox.arm(ArmRequest(fault=name, phase="submit"))
        before = clock.now
        await stage.call("submit")
        assert clock.now - before >= least


async def test_times_count_submits_of_one_prompt(client: httpx.AsyncClient, sandbox: Sandbox) -> None:
    prompt = "a fox [[fault:rate_limited times=2 retry_after=3]]"
    answers = [await create(client, prompt) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [429, 429, 200]
    assert answers[0].headers["retry-after"] == "3"
    assert (await create(client, prompt + " again")).status_code == 429
    always = [(await create(client, "a fox [[fault:no_credit]]")).status_code for _ in range(3)]
    assert always == [400, 400, 400]
    assert len(sandbox.ledger) == 1


async def test_a_directive_may_name_a_vendor_and_several_may_strike(
    client: httpx.AsyncClient, clock: VirtualClock, sandbox: Sandbox
) -> None:
    prompt = "a fox [[fault:no_credit vendor=unified]] [[fault:failed]] [[fault:jumping_progress]]"
    assert (await create(client, prompt, "unified")).status_code == 402
    task_id = (await create(client, prompt)).json()["task_id"]
    clock.now += 101
    assert await told_by_polls(client, task_id, 1) == [("FAILED", 80)]
    assert sandbox.world.tasks["highwayapi", task_id].words == "a fox"


async def test_duplicate_id_is_charged_twice_under_one_name(client: httpx.AsyncClient, sandbox: Sandbox) -> None:
    first = (await create(client, "a fox")).json()
    second = (await create(client, "a fox [[fault:id_duplicate]]")).json()
    assert first == second
    assert len(sandbox.ledger) == 2


async def test_a_refusal_and_a_broken_line_together(client: httpx.AsyncClient, sandbox: Sandbox) -> None:
    answer = await create(client, "a fox [[fault:rate_limited]] [[fault:late seconds=2]]")
    assert answer.status_code == 429
    with pytest.raises(httpx.RemoteProtocolError):
        await create(client, "a fox [[fault:server_error status=502 reason=BAD]] [[fault:truncated_body]]")
    assert not sandbox.ledger


@pytest.mark.parametrize("text", [
    "none", "", "hang phase=later", "stuck phase=submit", "hang x=1", "late seconds=soon", "hang times=x",
    "hang vendor=none", 'failed reason="',
])
async def test_misspelt_directives_are_refused(client: httpx.AsyncClient, sandbox: Sandbox, text: str) -> None:
    answer = await create(client, f"a fox [[fault:{text}]]")
    assert answer.status_code == 400
    assert "directive" in answer.json()["message"]
    assert not sandbox.ledger


def test_arguments_have_the_type_of_their_default() -> None:
    armed = arm("late", {"seconds": "2", "times": "3", "phase": "poll"})
    assert (armed.args["seconds"], armed.left, armed.phase) == (2.0, 3, "poll")
    assert math.isclose(float(arm("late", {}).args["seconds"]), 5)
    assert directives("[[ref:a]] x  y [[fault:stuck]]").words == "x y"
