"""One webhook on real sockets: every kind of receiver, and signatures that others verify.

Not held here: when a message is sent, and what follows from an answer (`test_webhooks.py`, `tests/core`).
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import openai
import pytest
import trustme
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from gateway.engine import webhooks
from gateway.engine.collect import Links
from gateway.engine.webhooks import Answer, Hooks, Letter, origin_of, post, signed
from gateway.values import Secret
from providers.egress import AddressPolicy, Reach, guard
from providers.transport import Transport
from tests.providers import wire
from tests.providers.wire import End, Wire, answer, deaf, default_tls, unused_port

pytestmark = pytest.mark.anyio

SECRET, OLD = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
NOW = 1_800_000_000.0
BODY = '{"type":"video.completed","timestamp":"2026-11-21T10:00:00.000Z","data":{"id":"video_1","s":"é"}}'
LOOPBACK = AddressPolicy((ipaddress.ip_network("127.0.0.0/8"),))
REACHES: tuple[Reach, ...] = ("public", "listed")


@asynccontextmanager
async def links_by(policy: AddressPolicy, tls: ssl.SSLContext | None = None) -> AsyncIterator[Links]:
    """Links as the gateway builds them."""
    tls = tls or default_tls()
    made = {reach: Transport(fresh=True, guard=guard(policy, reach), tls=tls) for reach in REACHES}
    yield Links(policy, made)
    for transport in made.values():
        await transport.aclose()


@pytest.fixture
async def links() -> AsyncIterator[Links]:
    async with links_by(LOOPBACK) as made:
        yield made


def letter(url: str, *secrets: str, body: str = BODY) -> Letter:
    return Letter(id="msg_1", url=url, body=body, secrets=tuple(map(Secret, secrets or (SECRET,))))


def headers_of(request: bytes) -> dict[str, str]:
    head = request.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in head)}


async def test_what_a_receiver_gets(links: Links) -> None:
    async with wire.serve(answer()) as server:
        assert await post(links, letter(f"{server.url}/hook?a=1"), NOW) == Answer(status=200)
    (request,) = server.requests
    assert request.startswith(b"POST /hook?a=1 HTTP/1.1\r\n")
    assert request.partition(b"\r\n\r\n")[2] == BODY.encode()
    headers = headers_of(request)
    assert (headers["content-type"], headers["webhook-id"]) == ("application/json", "msg_1")
    assert headers["webhook-timestamp"] == str(int(NOW))
    assert headers["user-agent"].startswith("reelgate/")


STATUSES = (
    "200 OK", "202 Accepted", "204 No Content", "400 Bad", "401 No", "404 No", "410 Gone", "429 Later",
    "500 Oh", "503 Later",
)


@pytest.mark.parametrize("status", STATUSES)
async def test_every_status_is_told(links: Links, status: str) -> None:
    async with wire.serve(answer(b"", status)) as server:
        assert await post(links, letter(server.url), NOW) == Answer(status=int(status[:3]))


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Elsewhere", "308 Elsewhere"])
@pytest.mark.parametrize("target", ["http://169.254.169.254/latest/meta-data", "/other", ""])
async def test_no_redirect_is_followed(links: Links, status: str, target: str) -> None:
    async with wire.serve(answer(b"", status, f"Location: {target}")) as server:
        assert await post(links, letter(server.url), NOW) == Answer(status=int(status[:3]))
        assert (server.connections, len(server.requests)) == (1, 1)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("120", 120.0), ("Fri, 15 Jan 2027 08:01:00 GMT", 60.0), ("soon", None), ("-5", 0.0)],
)
async def test_when_to_come_back(links: Links, value: str, seconds: float | None) -> None:
    async with wire.serve(answer(b"", "429 Later", f"Retry-After: {value}")) as server:
        found = await post(links, letter(server.url), NOW)
    assert found == Answer(status=429, retry_after_seconds=seconds)


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ((End.CLOSE,), Answer(error="broken")),
        ((End.RESET,), Answer(error="broken")),
        ((b"no http at all\r\n\r\n", End.CLOSE), Answer(error="broken")),
        ((answer(length=10) + b"x", End.CLOSE), Answer(status=200)),
        ((answer(length=10**12), b"x" * 1024, End.ENDLESS), Answer(status=200)),
    ],
    ids=["closed", "reset", "junk", "cut short", "endless"],
)
async def test_receivers_that_misbehave(links: Links, script: tuple[wire.Step, ...], found: Answer) -> None:
    async with wire.serve(*script) as server:
        assert await post(links, letter(server.url), NOW) == found
        assert len(server.requests) == 1


@pytest.mark.parametrize("script", [(End.HANG,), (b"HTTP/1.1 200 OK\r\nX: ", b"y", End.DRIP)],
                         ids=["hangs", "drips its head"])
async def test_a_receiver_without_an_answer_in_time(
    links: Links, script: tuple[wire.Step, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "TOTAL_SECONDS", 0.2)
    async with wire.serve(*script) as server, asyncio.timeout(60):
        assert await post(links, letter(server.url), NOW) == Answer(error="timeout")
        await server.client_gone.wait()


async def test_a_body_that_drips_is_not_waited_for(links: Links, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "BODY_SECONDS", 0.1)
    async with wire.serve(answer(length=10**9), b"z", End.DRIP) as server, asyncio.timeout(60):
        assert await post(links, letter(server.url), NOW) == Answer(status=200)


async def test_nobody_there(links: Links, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "TOTAL_SECONDS", 0.2)
    found = await post(links, letter(f"http://127.0.0.1:{unused_port()}/"), NOW)
    assert found == Answer(error="not_connected")
    with deaf() as port:
        assert await post(links, letter(f"http://127.0.0.1:{port}/"), NOW) == Answer(error="timeout")


# --- TLS ------------------------------------------------------------------------------------------------


def serving_tls(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


@pytest.mark.parametrize(
    ("name", "is_known", "found"),
    [("127.0.0.1", True, Answer(status=200)), ("other.example", True, Answer(error="not_connected")),
     ("127.0.0.1", False, Answer(error="not_connected"))],
    ids=["good", "another's name", "unknown authority"],
)
async def test_a_receiver_by_tls(name: str, is_known: bool, found: Answer) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context()
    (authority if is_known else trustme.CA()).configure_trust(context)
    async with (
        wire.serve(answer(), tls=serving_tls(authority, name)) as server,
        links_by(LOOPBACK, context) as links,
    ):
        assert await post(links, letter(server.url), NOW) == found
        assert bool(server.requests) == (found.status == 200)


# --- the egress policy ----------------------------------------------------------------------------------


async def test_a_name_that_leads_to_a_private_address_is_not_connected_to() -> None:
    async with wire.serve(answer()) as server, links_by(AddressPolicy()) as links:
        found = await post(links, letter(f"https://localhost:{server.port}/"), NOW)
        assert (found, server.connections) == (Answer(error="not_connected"), 0)


@pytest.mark.parametrize(
    "url",
    ["http://169.254.169.254/", "https://169.254.169.254/", "https://10.0.0.1/", "http://public.example/",
     "https://[::1]/", "https://2130706433/", "https://user:password@a.example/", "ftp://a.example/"],
)
async def test_a_url_that_may_not_be_sent_to_is_refused_at_each_try(url: str) -> None:
    async with links_by(AddressPolicy()) as links:
        assert await post(links, letter(url), NOW) == Answer(error="refused")


async def test_an_origin_of_a_provider_is_no_place_for_webhooks() -> None:
    async with links_by(AddressPolicy()) as links:
        hooks = Hooks(links, (Secret(SECRET),))
        assert hooks.refuses("http://127.0.0.1:1/") is not None
        assert hooks.refuses("https://a.example/") is None
        assert hooks.refuses("https://a.example/" + "x" * 2_048) == "is too long"
        assert hooks.refuses_own("https://a.example/") is None
        assert "secret" in (Hooks(links, ()).refuses_own("https://a.example/") or "")


def test_what_goes_to_one_place_is_told_by_its_origin() -> None:
    assert origin_of(None) is None
    for url in ("https://A.example/x?y", "https://a.example:443/z"):
        assert origin_of(url) == "https://a.example:443"


# --- signatures -----------------------------------------------------------------------------------------


async def received(links: Links, sent: Letter, server: Wire) -> tuple[bytes, dict[str, str]]:
    """A letter as it arrives now."""
    await post(links, sent, time.time())
    return server.requests[-1].partition(b"\r\n\r\n")[2], headers_of(server.requests[-1])


@pytest.mark.parametrize("secret", [SECRET, OLD])
async def test_each_secret_of_a_rotation_verifies(links: Links, secret: str) -> None:
    async with wire.serve(answer()) as server:
        body, headers = await received(links, letter(server.url, SECRET, OLD), server)
    assert Webhook(secret).verify(body, headers)["data"] == {"id": "video_1", "s": "é"}
    unwrapped = openai.OpenAI(api_key="x", webhook_secret=secret).webhooks.unwrap(body, headers)
    assert str(unwrapped.type) == "video.completed"


async def test_another_secret_or_body_does_not_verify(links: Links) -> None:
    async with wire.serve(answer()) as server:
        body, headers = await received(links, letter(server.url), server)
    with pytest.raises(WebhookVerificationError):
        Webhook(OLD).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body + b" ", headers)
    with pytest.raises(openai.InvalidWebhookSignatureError):
        openai.OpenAI(api_key="x").webhooks.verify_signature(body, headers, secret=OLD)


def test_the_example_of_the_standard() -> None:
    """Of the Standard Webhooks specification's own test suite."""
    body, secrets = '{"test": 2432232314}', (Secret(SECRET),)
    sent = Letter(id="msg_p5jXN8AQM9LWM0D4loKWxJek", url="", body=body, secrets=secrets)
    assert signed(sent, 1614265330.9) == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek", "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


async def test_nothing_leaves_unsigned(links: Links) -> None:
    async with wire.serve(answer()) as server:
        unsigned = Letter(id="msg_1", url=server.url, body=BODY, secrets=())
        assert await post(links, unsigned, NOW) == Answer(error="unsigned")
        assert server.connections == 0
