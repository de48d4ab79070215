"""Each fault does what its row says, seen from a bare socket: the bytes, the end, what was charged.

Held here: one check per row of the table. Not held here: how faults are chosen (test_fault_choice), and what
a gateway makes of them.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import TypeAlias

import pytest

from gateway.sandbox.admin import ArmRequest
from gateway.sandbox.catalogue import FAULTS, PHASES, Phase
from gateway.sandbox.server import Sandbox
from tests.sandbox.conftest import VirtualClock
from tests.sandbox.stage import Seen, Stage

pytestmark = pytest.mark.anyio

Check: TypeAlias = Callable[[Seen, Seen], bool]


def answered(status: int, *parts: bytes) -> Check:
    def check(seen: Seen, _plain: Seen) -> bool:
        return seen.end == "fin" and seen.status == status and all(part in seen.body for part in parts)

    return check


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


def id_of(seen: Seen) -> object:
    body = seen.json()
    assert isinstance(body, dict)
    return body.get("task_id", body.get("id"))


def id_is(wanted: Callable[[object], bool]) -> Check:
    return lambda seen, _: seen.status == 200 and wanted(id_of(seen))


def told(word_v3: str, word_unified: str, outputs: int | None) -> Check:
    """The status, and how many videos; None: no list."""

    def check(seen: Seen, _plain: Seen) -> bool:
        body = seen.json()
        assert isinstance(body, dict)
        videos = body.get("videos") if "task" in body else body["results"]
        word = body["task"]["status"] if "task" in body else body["status"]
        return word in {word_v3, word_unified} and (None if videos is None else len(videos)) == outputs

    return check


def unpacked(seen: Seen) -> bytes:
    body = seen.body
    for _ in seen.header("content-encoding").split(","):
        body = gzip.decompress(body)
    return body


def hinted(wanted: Callable[[str], bool]) -> Check:
    """Refused for now, with such a Retry-After."""

    def check(seen: Seen, plain: Seen) -> bool:
        word = refused(429, 429, b"RATE_LIMIT_EXCEEDED", b"rate_limit_error")
        return word(seen, plain) and wanted(seen.header("retry-after"))

    return check


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
    "many_headers": lambda seen, plain: seen.head.count(b"\r\n") > 100_000 and same(seen, plain),
    "huge_header": lambda seen, plain: len(seen.header("x-filler")) == 1_000_000 and same(seen, plain),
    "endless_body": lambda seen, _: seen.end == "more" and seen.header("transfer-encoding") == "chunked",
    "huge_body": lambda seen, _: seen.end == "more" and seen.header("content-length") == "1000000004",
    "broken_chunk": lambda seen, _: seen.body.startswith(b"zz\r\n"),
    "not_http": lambda seen, _: not seen.data.startswith(b"HTTP/"),
    "gzip_bomb": lambda seen, _: len(unpacked(seen)) == 5_000_000 and len(seen.body) < 50_000,
    "stacked_encodings": lambda seen, plain: seen.header("content-encoding").count("gzip") == 50 and abs(
        len(unpacked(seen)) - len(plain.body)) <= 4,
    "invalid_json": unreadable,
    "html": answered(200, b"<html>"),
    "empty": lambda seen, _: seen.status == 200 and seen.body == b"",
    "bom": lambda seen, _: seen.body.startswith(b"\xef\xbb\xbf{"),
    "wrong_charset": lambda seen, _: seen.body.decode("utf-16").startswith("{"),
    "nan": lambda seen, _: b"NaN" in seen.body,
    "huge_number": lambda seen, _: seen.body.count(b"9" * 10_000) == 2,
    "huge_exponent": lambda seen, _: seen.body.count(b"1e400") == 2,
    "nested": unreadable,
    "duplicate_keys": lambda seen, _: len(json.loads(seen.body, object_pairs_hook=list)) == len(
        json.loads(seen.body)) + 1,
    "error_in_200": answered(200, b"CREATE_TASK_FAILED"),
    "status": answered(500, b"task"),
    "redirect": lambda seen, _: (seen.status, seen.header("location")) == (
        307, "http://127.0.0.1:9/elsewhere"),
    "rate_limited": hinted(lambda hint: hint == ""),
    "retry_after_seconds": hinted(lambda hint: hint == "3"),
    "retry_after_date": hinted(lambda hint: hint.endswith(" GMT")),
    "retry_after_negative": hinted(lambda hint: hint == "-5"),
    "retry_after_years": hinted(lambda hint: hint == "315360000"),
    "retry_after_garbage": hinted(lambda hint: hint == "soon, maybe"),
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
    "maintenance_window": answered(503, b"<html>"),
    "id_missing": id_is(lambda told: told is None),
    "id_empty": id_is(lambda told: told == ""),
    "id_number": id_is(lambda told: told == 12345),
    "id_long": id_is(lambda told: told == "x" * 10_000),
    "id_path": id_is(lambda told: "/../" in str(told)),
    "id_newline": id_is(lambda told: "\r\n" in str(told)),
    "id_duplicate": lambda seen, plain: id_of(seen) == id_of(plain),
    "not_found": refused(404, 404, b"TASK_NOT_FOUND", b"task_not_found"),
    "unknown_status": told("TASK_STATUS_BAKING", "TASK_STATUS_BAKING", 1),
    "status_case": told("task_status_succeed", "COMPLETED", 1),
    "status_localized": told("已完成", "已完成", 1),
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

# The socket and the files know nothing of the vendors' words: there one vendor stands for all.
CASES = [
    (vendor, name, phase)
    for name, fault in FAULTS.items() if fault.port is None
    for phase in fault.phases
    for vendor in ("highwayapi", "unified")
    if vendor == "highwayapi" or (fault.send is None and phase != "download")
]
# Those after which a submit has cost nothing; every other one has been charged once.
FREE = {
    "hang_before_work", "reset_before_work", "rate_limited", "no_credit", "key_revoked", "forbidden",
    "model_removed", "invalid", "policy", "capacity", "server_error", "unavailable", "maintenance",
    "maintenance_window", "retry_after_seconds", "retry_after_date", "retry_after_negative",
    "retry_after_years", "retry_after_garbage",
}
_SMALLER: dict[str, dict[str, str | int | float]] = {"gzip_bomb": {"bytes": 5_000_000}}


@pytest.mark.parametrize(("vendor", "name", "phase"), CASES)
async def test_fault_does_what_its_row_says(
    sandbox: Sandbox, clock: VirtualClock, vendor: str, name: str, phase: Phase
) -> None:
    stage = Stage(sandbox, vendor)
    await stage.prepare(clock)
    plain = await stage.call(phase)
    assert plain.status == 200
    charged = len(sandbox.ledger)
    sandbox.arm(ArmRequest(fault=name, vendor=vendor, phase=phase, args=_SMALLER.get(name, {})))
    seen = await stage.call(phase, name)
    sandbox.world.armed.clear()  # a window would go on
    if phase == "download" and FAULTS[name].error is not None:
        assert seen.status >= 400
    else:
        assert CHECKS[name](seen, plain), seen.data[:300]
    assert len(sandbox.ledger) - charged == (phase == "submit" and name not in FREE)
    await stage.renew()
    again = await stage.call(phase)
    assert (again.status, again.end) == (200, "fin")


def test_every_row_is_checked_and_does_one_thing() -> None:
    assert set(CHECKS) == {name for name, fault in FAULTS.items() if fault.port is None}
    for name, fault in FAULTS.items():
        does = (fault.error, fault.bend, fault.retell, fault.send, fault.port)
        assert len([part for part in does if part is not None]) == 1, name
        assert set(fault.phases) <= set(PHASES)
        assert fault.text, name


async def test_a_date_is_as_far_ahead_as_it_is_told(sandbox: Sandbox, clock: VirtualClock) -> None:
    stage = Stage(sandbox, "unified")
    sandbox.arm(ArmRequest(fault="retry_after_date", args={"ahead": 60}))
    seen = await stage.call("submit")
    at = parsedate_to_datetime(seen.header("retry-after")).timestamp()
    assert math.isclose(at, clock.now + 60, abs_tol=1)
