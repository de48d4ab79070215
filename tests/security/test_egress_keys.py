"""A vendor's key goes to that vendor's origin: whatever its answers name, an attacker sees none.

Held here: every adapter of the register against a vendor whose answers name the attacker wherever a URL can
stand, and a whole gateway whose vendors redirect there. The attacker may be reached, so what keeps the key
from it is that nothing sends it. Not held here: which places may be reached at all (`test_ssrf`).
"""

from __future__ import annotations

import base64
import ipaddress
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Final, Literal
from urllib.parse import quote

import httpx
import msgspec
import pytest

from gateway.engine.collect import LinkRefused, Links, LinkUnreachable, open_link
from gateway.sandbox.admin import ArmRequest
from gateway.sandbox.attacker import Attacker
from providers import adapters
from providers.egress import AddressPolicy, Reach, guard, origin
from providers.http import Account, VendorHTTP
from providers.spec import Adapter, Succeeded, VendorError
from providers.transport import Transport
from tests.contract.recorded import Subject, filled, load
from tests.providers import wire
from tests.providers.wire import Wire, default_tls
from tests.serving import Served, serving

pytestmark = pytest.mark.anyio

KEY: Final = "sk/vendor+canary-0123456789=="
SUBJECTS: Final = [load(info) for info in adapters().values()]
each_adapter = pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.info.name)
CODES: Final = (301, 302, 303, 307, 308)
STATUSES: Final = (200, 201, 202, 300, *CODES, 401, 407, 421, 429, 503)
# Members by which vendors, and other APIs, say where to ask next. They are set beside what an answer has.
MEMBERS: Final = (
    "poll_url", "polling_url", "status_url", "result_url", "response_url", "get_url", "cancel_url",
    "task_url", "callback_url", "webhook_url", "redirect_url", "base_url", "api_base", "endpoint", "host",
    "next", "href", "location", "uri", "self", "url", "video_url",
)
HEADERS: Final = (
    "Location", "Content-Location", "Operation-Location", "Azure-AsyncOperation", "Refresh", "Link",
    "Alt-Svc", "WWW-Authenticate", "Proxy-Authenticate", "Access-Control-Allow-Origin", "X-Accel-Redirect",
)


def lured(answer: object, away: str) -> object:
    """That answer with the attacker in place of every URL, and in every member that might be one."""
    if isinstance(answer, dict):
        lures: dict[str, object] = dict.fromkeys(MEMBERS, away)
        lures |= {"urls": {"get": away, "cancel": away, "stream": away}, "_links": {"self": {"href": away}}}
        return lures | {name: lured(value, away) for name, value in answer.items()}
    if isinstance(answer, list):
        return [lured(value, away) for value in answer]
    return away if isinstance(answer, str) and "://" in answer else answer


def told(body: object, status: int, away: str) -> bytes:
    """A whole answer, with the attacker in its head too."""
    values = {"Refresh": f"0; url={away}", "Link": f"<{away}>; rel=next", "Alt-Svc": f'h2="{away}"',
              "WWW-Authenticate": f'Bearer realm="{away}"', "Proxy-Authenticate": f'Basic realm="{away}"'}
    headers = [f"{name}: {values.get(name, away)}" for name in HEADERS]
    return wire.answer(json.dumps(body).encode(), f"{status} Lured", *headers)


@asynccontextmanager
async def attacking() -> AsyncIterator[Attacker]:
    attacker = Attacker("127.0.0.1", [KEY])
    await attacker.open()
    yield attacker
    attacker.close()


@asynccontextmanager
async def vendor(subject: Subject) -> AsyncIterator[tuple[Adapter, Wire]]:
    """The adapter behind its real door, and the server that it talks to."""
    async with wire.serve() as server:
        fresh, pooled = Transport(fresh=True, tls=default_tls()), Transport(tls=default_tls())
        account = Account(base_url=server.url, api_key=KEY, auth_scheme=subject.info.auth_scheme)
        door = VendorHTTP(account, fresh=fresh, pooled=pooled, observe=lambda *_: None)
        yield subject.info.build(door), server
        await fresh.aclose()
        await pooled.aclose()


async def submitted(subject: Subject, adapter: Adapter) -> dict[str, str] | None:
    """Where to poll after a submit; None where the answer was of no use."""
    slug, sold = next(iter(subject.sold.items()))
    try:
        return dict((await adapter.submit(sold.calls["minimal"].request, subject.offering(slug))).ref)
    except VendorError:
        return None


async def result_of(adapter: Adapter, ref: Mapping[str, str]) -> str | None:
    """The link that a poll comes to, if any."""
    try:
        progress = await adapter.poll(dict(ref))
    except VendorError:
        return None
    return progress.url if isinstance(progress, Succeeded) else None


def ids(away: str) -> list[str]:
    """Task ids that would be another place, were they taken for a part of a URL."""
    host = away.removeprefix("http://")
    return [
        "c0ffee", away, f"//{host}/", f"@{host}/", f"/../..//{host}", f"\\\\{host}", f"?url={away}",
        f"#@{host}", quote(away, safe=""), f".{host}", f"a:b@{host}",
    ]


@each_adapter
async def test_no_answer_to_a_submit_sends_the_key_away(subject: Subject) -> None:
    async with attacking() as attacker, vendor(subject) as (adapter, server):
        bodies = [
            filled(template, ID=one) for template in subject.answers.created for one in ids(attacker.url)
        ]
        bodies += [*subject.answers.not_created, *subject.answers.error_bodies]
        for status in STATUSES:
            for body in bodies if status == 200 else bodies[:1]:
                server.script = (told(lured(body, attacker.url), status, attacker.url),)
                ref = await submitted(subject, adapter)
                if ref is not None:
                    await result_of(adapter, ref)
        assert attacker.connections == 0
        assert all(KEY.encode() in request for request in server.requests), "the key is sent, and only there"


@each_adapter
async def test_no_answer_to_a_poll_sends_the_key_away(subject: Subject) -> None:
    async with attacking() as attacker, vendor(subject) as (adapter, server):
        bodies = [filled(poll.answer, KEY="x") for poll in subject.answers.polls.values()]
        links: set[str | None] = set()
        for status in STATUSES:
            for body in [*bodies, *subject.answers.error_bodies]:
                server.script = (told(lured(body, attacker.url), status, attacker.url),)
                links.add(await result_of(adapter, {"task_id": "c0ffee"}))
        assert attacker.connections == 0
        assert attacker.url in links, "the answers do name the attacker"
        assert len(server.requests) >= len(STATUSES) * len(bodies)


@asynccontextmanager
async def links_to(*places: str) -> AsyncIterator[Links]:
    """Links that may lead to loopback; `places` are vendors' own."""
    reaches: tuple[Reach, ...] = ("origin", "public", "listed")
    policy = AddressPolicy((ipaddress.ip_network("127.0.0.0/8"),), frozenset(map(origin, places)))
    made = {reach: Transport(fresh=True, guard=guard(policy, reach), tls=default_tls()) for reach in reaches}
    yield Links(policy, made)
    for transport in made.values():
        await transport.aclose()


@pytest.mark.parametrize("status", CODES)
async def test_a_file_is_fetched_without_a_key_wherever_it_is(status: int) -> None:
    async with attacking() as attacker, wire.serve() as server, links_to(server.url) as links:
        server.script = (told({}, status, f"{attacker.url}/a.mp4?x=1"),)
        for url in (attacker.url, f"{server.url}/file"):
            with pytest.raises((LinkRefused, LinkUnreachable)):  # it sends no video
                await open_link(links, url, "bytes=0-")
        assert attacker.connections == 2
        heads = b"".join([*attacker.requests, *server.requests]).lower()
        for name in (b"authorization", b"cookie", b"referer", b"api-key", b"api_key", b"token"):
            assert name not in heads
        assert attacker.report().keys == 0


# --- the whole gateway ----------------------------------------------------------------------------------

ALLOWED: Final = """
[egress]
allow = ["127.0.0.0/8"]
[webhooks]
secrets = [{ file = "hook" }]
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("keys")
    (folder / "hook").write_text("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    with serving(folder, more=ALLOWED) as started:
        httpx.post(f"{started.sandbox.url}/admin/attacker", trust_env=False).raise_for_status()
        yield started


def seen(served: Served) -> dict[str, object]:
    """What the sandbox's own attacker has seen."""
    answer = httpx.get(f"{served.sandbox.url}/admin/attacker", trust_env=False)
    return msgspec.json.decode(answer.content, type=dict[str, object])


PROVIDERS: Final = {"highway": "highwayapi", "narrow": "myrouter", "unified": "unified"}
SIZES: Final = {"highway": "720p", "narrow": "1080p", "unified": "720p"}


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_no_vendor_can_have_the_gateway_take_its_key_elsewhere(
    served: Served, provider: str, code: int
) -> None:
    phases: tuple[Literal["submit", "poll", "download"], ...] = ("poll", "download", "submit")
    before = served.sandbox.attacker.connections
    for phase in phases:
        away = f"{served.sandbox.attacker.url}/{provider}/{phase}"
        served.sandbox.arm(ArmRequest(
            fault="redirect", vendor=PROVIDERS[provider], phase=phase, args={"code": code, "to": away},
        ))
        video = served.create(provider=provider, resolution=SIZES[provider])
        if phase == "submit":
            assert served.started(video["id"])["stage"] == "submission_unknown"
            served.client.post(f"/v1/videos/{video['id']}/resolve", json={"action": "fail"})
            continue
        video = served.finish(video["id"])
        assert video["status"] == "completed"
        answer = served.client.get(video["output"]["url"])
        assert answer.status_code == (502 if phase == "download" else 200)
    report = seen(served)
    assert report["keys"] == 0
    assert report["connections"] == before + 1, "only for the file, and that without a key"


def test_a_webhook_tells_an_attacker_no_key(served: Served) -> None:
    before = served.sandbox.attacker.connections
    video = served.completed(webhook_url=f"{served.sandbox.attacker.url}/hook")
    for _ in range(1_000):
        events = served.client.get(f"/v1/videos/{video['id']}/timeline").json()["data"]
        if any(event["type"] == "webhook_try" for event in events):
            break
    assert served.sandbox.attacker.connections == before + 1
    assert seen(served)["keys"] == 0


# --- the attacker itself --------------------------------------------------------------------------------

SHOWN: Final[tuple[tuple[str, str, dict[str, str], bytes], ...]] = (
    ("GET", "/", {"Authorization": f"Bearer {KEY}"}, b""),
    ("GET", "/", {"X-Api-Key": KEY}, b""),
    ("GET", "/", {"Authorization": "Basic " + base64.b64encode(f"user:{KEY}".encode()).decode()}, b""),
    ("GET", "/", {"Cookie": "k=" + quote(KEY, safe="")}, b""),
    ("GET", "/?key=" + quote(KEY, safe=""), {}, b""),
    ("GET", "/" + quote(KEY), {}, b""),
    ("POST", "/", {}, json.dumps({"key": KEY}).encode()),
    ("POST", "/", {}, json.dumps({"key": KEY}).replace("/", "\\/").encode()),
    ("POST", "/", {}, base64.b64encode(b"xy" + KEY.encode() + b"z")),
)


async def test_the_attacker_knows_a_key_when_it_sees_one() -> None:
    async with attacking() as attacker, httpx.AsyncClient(trust_env=False) as client:
        for number, (method, path, headers, body) in enumerate(SHOWN):
            await client.request(method, attacker.url + path, headers=headers, content=body)
            assert attacker.report().keys == number + 1, (method, path, headers, body)
        await client.get(attacker.url, headers={"Authorization": "Bearer another-key-altogether"})
        assert attacker.report().keys == len(SHOWN)
        assert len(attacker.report().requests) == attacker.connections == len(SHOWN) + 1
