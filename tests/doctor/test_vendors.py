"""What the doctor finds on the way to a vendor, and in its answer to a question that costs nothing.

Not held here: what adapters make of answers (`tests/providers`).
"""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
import ssl
import threading
import time
from contextlib import suppress
from email.utils import formatdate
from typing import Final

import pytest
import trustme

from gateway.doctor import examination, vendors
from gateway.doctor.aside import aside
from gateway.doctor.examination import Look
from gateway.doctor.rules import Finding
from providers.v3_async import V3Async
from tests.doctor.patient import KEY, Patient, http, odd_vendor

pytestmark = pytest.mark.anyio

_UNKNOWN_TASK: Final = '{"code": 404, "reason": "TASK_NOT_FOUND", "message": "no such task"}'
_JSON: Final = "Content-Type: application/json"
_REDIRECT: Final = http(307, "", "Location: https://elsewhere.example/")
# What a vendor answers, and the rule that the doctor goes by; None: all is well.
_ANSWERS: Final = [
    (http(200, _UNKNOWN_TASK, _JSON), "vendor-not-an-api"),  # in 200 it is no answer of this protocol
    (http(404, _UNKNOWN_TASK, _JSON), None),
    (http(500, '{"code": 500, "reason": "GET_RESULT_FAILED", "message": "x"}', _JSON), None),
    (http(400, '{"code": 400, "reason": "INVALID_TASK_ID", "message": "x"}', _JSON), None),
    (http(429, "slow down"), None),
    (http(401, '{"code": 401, "reason": "INVALID_API_KEY", "message": "x"}', _JSON), "vendor-key-refused"),
    (http(401), "vendor-key-refused"),
    (http(403, '{"reason": "NOT_ENOUGH_BALANCE", "message": "x"}', _JSON), "vendor-account-refused"),
    (http(403, "<html>not from here</html>"), "vendor-account-refused"),
    (_REDIRECT, "vendor-redirects"),
    (http(404, "<html>nothing here</html>"), "vendor-not-an-api"),
    (http(200, "<html>please log in</html>"), "vendor-not-an-api"),
    (http(502, "<html>bad gateway</html>"), "vendor-fails"),
    (http(404, '{"code": 404, "reason": "API_NOT_FOUND", "message": "x"}', _JSON), "vendor-not-an-api"),
]


@pytest.mark.parametrize(("answer", "rule"), _ANSWERS, ids=range(len(_ANSWERS)))
async def test_what_a_vendor_answers(patient: Patient, answer: bytes, rule: str | None) -> None:
    async with odd_vendor(lambda _line: answer) as port:
        patient.set({"providers.highway.base_url": f'"http://127.0.0.1:{port}"'})
        found = await patient.examined()
    assert [finding.rule for finding in found] == ([] if rule is None else [rule]), found
    assert KEY not in str(found)


async def test_a_vendor_that_drips_holds_up_nobody(
    patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte comes in time, and the answer never ends."""
    monkeypatch.setattr(vendors, "WAY_SECONDS", 0.1)
    is_over, is_closed = asyncio.Event(), asyncio.Event()

    async def dripping(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 404 X\r\nX: ")
        await is_over.wait()
        writer.close()
        await writer.wait_closed()
        is_closed.set()

    async with await asyncio.start_server(dripping, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        patient.set({"providers.highway.base_url": f'"http://127.0.0.1:{port}"'})
        found = await patient.examined()
        is_over.set()
        await is_closed.wait()
    assert [(finding.rule, finding.where) for finding in found] == [
        ("vendor-unreachable", "providers.highway.base_url")
    ]


def test_what_never_ends_is_left_behind() -> None:
    """Not only the wait for it: the loop ends as well, which waits for threads of its own."""
    never = threading.Event()

    async def asked() -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                await aside(never.wait)

    whole = threading.Thread(target=lambda: asyncio.run(asked()), daemon=True)
    whole.start()
    whole.join(20)
    is_over = not whole.is_alive()
    never.set()
    assert is_over


async def test_what_is_asked_aside_answers_or_fails() -> None:
    assert await aside(int, "7") == 7
    with pytest.raises(ValueError, match="seven"):
        await aside(int, "seven")


async def test_no_question_is_a_create(patient: Patient) -> None:
    asked: list[str] = []

    def answer(line: str) -> bytes:
        asked.append(line)
        return http(404, _UNKNOWN_TASK, _JSON)

    async with odd_vendor(answer) as port:
        patient.set({"providers.highway.base_url": f'"http://127.0.0.1:{port}"'})
        assert await patient.examined() == []
        assert await patient.examined(is_offline=True) == []
    assert [line.split()[0] for line in asked] == ["HEAD", "GET"]


async def test_the_key_is_wrong_at_a_simulated_vendor(patient: Patient) -> None:
    patient.environ["KEY"] = "another-key-than-that"
    found = await patient.examined()
    assert [(finding.rule, finding.where) for finding in found] == [
        ("vendor-key-refused", "providers.highway.api_key")
    ]


async def test_an_adapter_that_fails_itself_hides_no_other_provider(
    patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_adapter: V3Async, _id: str) -> None:
        raise LookupError(KEY)

    monkeypatch.setattr(V3Async, "ref_of", broken)
    patient.environ["OTHER"] = "another-key-than-that"
    patient.set({
        "providers.other.adapter": '"unified"', "providers.other.api_key": '{ env = "OTHER" }',
        "providers.other.base_url": f'"{patient.vendors}/unified"',
    })
    found = await patient.examined()
    assert [(finding.rule, finding.where) for finding in found] == [
        ("vendor-key-refused", "providers.other.api_key"), ("check-failed", "providers.highway"),
    ]  # fmt: skip
    assert KEY not in str(found)


async def test_the_clocks_differ(patient: Patient) -> None:
    late = formatdate(time.time() - 3_600, usegmt=True)
    async with odd_vendor(lambda _line: http(404, _UNKNOWN_TASK, _JSON, f"Date: {late}")) as port:
        patient.set({"providers.highway.base_url": f'"http://127.0.0.1:{port}"'})
        found = await patient.examined()
    assert [finding.rule for finding in found] == ["clock-wrong"]
    assert "-3600 s" in found[0].found or "-3599 s" in found[0].found or "-3601 s" in found[0].found


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(("url", "rule"), [
    ("http://127.0.0.1:{closed}", "vendor-unreachable"),
    ("https://vendor.invalid", "vendor-name-unknown"),
    ("https://127.0.0.1:{plain}", "vendor-no-tls"),
])  # fmt: skip
async def test_nobody_is_there(patient: Patient, url: str, rule: str) -> None:
    base = url.format(closed=closed_port(), plain=patient.vendors.rpartition(":")[2])
    patient.set({"providers.highway.base_url": f'"{base}"'})
    found = await patient.examined()
    assert [finding.rule for finding in found] == [rule], found


async def test_the_proxy_is_not_there(patient: Patient) -> None:
    patient.set({"egress.proxy": f'"http://127.0.0.1:{closed_port()}"'})
    found = await patient.examined()
    assert [(finding.rule, finding.where) for finding in found] == [("proxy-unreachable", "egress.proxy")]


_YESTERDAY: Final = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)


@pytest.mark.parametrize(("name", "end", "is_known", "rule"), [
    ("127.0.0.1", None, True, None),
    ("127.0.0.1", _YESTERDAY, True, "vendor-certificate-expired"),
    ("other.example", None, True, "vendor-certificate-other-name"),
    ("127.0.0.1", None, False, "vendor-certificate-untrusted"),
], ids=["good", "expired", "other name", "untrusted"])  # fmt: skip
async def test_certificates(
    patient: Patient, name: str, end: dt.datetime | None, is_known: bool, rule: str | None
) -> None:
    authority, tls = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    begin = None if end is None else end - dt.timedelta(days=1)
    authority.issue_cert(name, not_before=begin, not_after=end).configure_cert(tls)
    (authority if is_known else trustme.CA()).cert_pem.write_to_path(str(patient.folder / "ca.pem"))
    async with odd_vendor(lambda _line: http(404, _UNKNOWN_TASK, _JSON), tls) as port:
        patient.set({
            "providers.highway.base_url": f'"https://127.0.0.1:{port}"', "egress.ca_file": '"ca.pem"'
        })
        found = await patient.examined()
    assert [finding.rule for finding in found] == ([] if rule is None else [rule]), found


async def test_a_part_that_fails_hides_no_other(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(_case: object) -> list[Finding]:
        raise RuntimeError(KEY)

    async def silent(_case: object) -> list[Finding]:
        raise TimeoutError

    parts = (Look("one", broken), Look("two", silent), *examination.PARTS)
    monkeypatch.setattr(examination, "PARTS", parts)
    patient.set({"log.level": '"debug"'})
    found = await patient.examined(is_offline=True)
    assert [(finding.rule, finding.where) for finding in found] == [
        ("log-debug", "log.level"), ("no-answer-in-time", "two"), ("check-failed", "one"),
    ]  # fmt: skip
    assert KEY not in str(found)
