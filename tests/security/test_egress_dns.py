"""Names whose answers change, contradict themselves or hide behind others: only a judged address is met.

Held here: a real DNS server, and two receivers on one port: 127.0.0.1, which is listed, and 127.0.0.2, a
canary. Not held here: names that are private from the beginning (`test_ssrf`).
"""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

import httpx
import pytest

from gateway import assembly
from gateway.core.lease import Lease
from gateway.engine.collect import Links, LinkUnreachable, open_link
from gateway.engine.webhooks import Answer, Letter, post
from gateway.settings import parse
from gateway.values import Secret
from providers import adapters
from providers.egress import AddressPolicy, EgressRefused, Reach, guard
from providers.transport import AddressInfo, Transport
from tests.providers import wire
from tests.providers.wire import Wire, answer, default_tls
from tests.security.egress_dns import DNS, Records, Resolver, dns
from tests.security.ssrf_corpus import Canary, canary, connects

pytestmark = pytest.mark.anyio

SECRET: Final = Secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
NOW: Final = 1_800_000_000.0
GOOD, BAD, BAD_SIX, METADATA = "A 127.0.0.1", "A 127.0.0.2", "AAAA ::1", "A 169.254.169.254"
LISTED: Final = AddressPolicy((ipaddress.ip_network("127.0.0.1/32"),))
NAME: Final = "hooks.test"
OK: Final = Answer(status=200)
NOT_CONNECTED: Final = Answer(error="not_connected")


class Stage(NamedTuple):
    """Who is reached (`good`), who is not (`bird`), and the names."""

    good: Wire
    bird: Canary
    names: DNS

    def letter(self, name: str = NAME) -> Letter:
        """One for whoever that name leads to."""
        return Letter(id="msg_1", url=f"http://{name}:{self.good.port}/", body="{}", secrets=(SECRET,))


@asynccontextmanager
async def stage(*answers: Records, **names: Sequence[Records]) -> AsyncIterator[Stage]:
    zone = {NAME: answers, **{f"{name}.test": found for name, found in names.items()}}
    async with (
        wire.serve(answer(b"{}")) as good,
        canary("127.0.0.2", "::1", port=good.port) as bird,
        dns(zone) as server,
    ):
        with connects() as heard:
            yield Stage(good, bird, server)
        assert bird.connections == 0
        assert set(heard) <= {str(server.address), str(("127.0.0.1", good.port))}


@asynccontextmanager
async def links_by(policy: AddressPolicy, names: DNS) -> AsyncIterator[Links]:
    reaches: tuple[Reach, ...] = ("origin", "public", "listed")
    made = {
        reach: Transport(fresh=True, guard=guard(policy, reach), tls=default_tls(), resolver=Resolver(names))
        for reach in reaches
    }
    yield Links(policy, made)
    for transport in made.values():
        await transport.aclose()


async def test_a_name_that_turns_private_is_met_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = 0.0
    monkeypatch.setattr("aiohttp.connector.monotonic", lambda: seconds)
    async with stage([GOOD], [BAD], [GOOD]) as at, links_by(LISTED, at.names) as links:
        found = []
        for _ in range(3):
            found.append(await post(links, at.letter(), NOW))
            seconds += 60.0  # nobody remembers a name that long
        assert found == [OK, NOT_CONNECTED, OK]
        assert at.good.connections == 2


async def test_a_name_is_asked_for_once_and_what_was_judged_is_connected_to() -> None:
    """The second answer would be another: nobody asks again between judging and connecting."""
    async with stage([GOOD], [BAD]) as at, links_by(LISTED, at.names) as links:
        assert await post(links, at.letter(), NOW) == OK
        assert [kind for name, kind in at.names.asked] == [1, 28]


@pytest.mark.parametrize(
    "answers",
    [[BAD, GOOD], [GOOD, BAD], [BAD_SIX, GOOD], [METADATA, BAD, GOOD, BAD_SIX], ["CNAME twin.test"]],
    ids=["private first", "private last", "private by IPv6", "all kinds", "behind an alias"],
)
async def test_of_several_answers_only_those_that_may_are_tried(answers: list[str]) -> None:
    async with stage(answers, twin=[[BAD, GOOD]]) as at, links_by(LISTED, at.names) as links:
        assert await post(links, at.letter(), NOW) == OK
        assert at.good.connections == 1


@pytest.mark.parametrize(
    "answers",
    [[BAD], [BAD_SIX], [BAD, BAD_SIX, METADATA], ["CNAME inner.test"], ["CNAME far.test"], []],
    ids=["IPv4", "IPv6", "several", "an alias", "an alias of an alias", "none"],
)
async def test_where_no_answer_may_nobody_is_met(answers: list[str]) -> None:
    zone = {"inner": [[BAD, BAD_SIX]], "far": [["CNAME inner.test"]]}
    async with stage(answers, **zone) as at, links_by(LISTED, at.names) as links:
        assert await post(links, at.letter(), NOW) == NOT_CONNECTED
        with pytest.raises(LinkUnreachable):
            await open_link(links, at.letter().url, None)
        assert at.good.connections == 0


# --- who is really at the other end ---------------------------------------------------------------------


async def test_the_peer_is_judged_before_a_byte_leaves() -> None:
    judged: list[str] = []

    def once(info: AddressInfo) -> None:
        judged.append(str(info[4][0]))
        if len(judged) > 1:
            raise EgressRefused("somebody else")

    async with wire.serve(answer(b"{}")) as server, Transport(guard=once, tls=default_tls()) as transport:
        with pytest.raises(httpx.ConnectError, match="egress policy refuses somebody else"):
            await transport.handle_async_request(httpx.Request("POST", server.url, content=b"paid"))
        assert judged == ["127.0.0.1", "127.0.0.1"]
        assert server.requests == []
    assert b"".join(server.cut_off) == b""


async def test_the_peer_of_a_connection_from_the_pool_is_judged_again() -> None:
    forbidden = False

    def check(_info: AddressInfo) -> None:
        if forbidden:
            raise EgressRefused("it now")

    async with wire.serve(answer(b"{}")) as server, Transport(guard=check, tls=default_tls()) as transport:
        response = await transport.handle_async_request(httpx.Request("GET", server.url))
        await response.aread()
        await response.aclose()
        forbidden = True
        with pytest.raises(httpx.ConnectError, match="egress policy refuses it now"):
            await transport.handle_async_request(httpx.Request("GET", server.url))
        assert (server.connections, len(server.requests)) == (1, 1)


# --- listed names ---------------------------------------------------------------------------------------

CONFIGURATION: Final = """
[egress]
allow = ["Hooks.Test"]
[providers.one]
adapter = "highwayapi"
api_key = {{ env = "KEY" }}
"""


@asynccontextmanager
async def wires(folder: Path, names: DNS, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[assembly.Wires]:
    """What the gateway makes of that configuration."""

    def made(**options: object) -> Transport:
        return Transport(**{**options, "resolver": Resolver(names)})  # type: ignore[arg-type]

    monkeypatch.setattr(assembly, "Transport", made)
    settings = parse(CONFIGURATION.format(), folder, adapters(), {"KEY": "k"})
    built = assembly.Wires(settings, Lease(assembly.elapsed, is_shared=False))
    yield built
    await built.close()


async def test_a_listed_name_may_be_private_for_webhooks_and_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zone = {"other": [[GOOD]], "sub.hooks": [[GOOD]]}
    async with stage([GOOD], **zone) as at, wires(tmp_path, at.names, monkeypatch) as built:
        assert await post(built.hooks.links, at.letter(), NOW) == OK
        assert await post(built.hooks.links, at.letter("HOOKS.test."), NOW) == OK
        piece = await open_link(built.links, at.letter().url, None)
        await piece.close()
        for name in ("other.test", "sub.hooks.test", "hooks.test.evil.test"):
            assert await post(built.hooks.links, at.letter(name), NOW) == Answer(error="refused")
        assert built.hooks.refuses(f"http://127.0.0.1:{at.good.port}/") is not None


async def test_no_door_leads_to_the_machines_own_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stage([METADATA]) as at, wires(tmp_path, at.names, monkeypatch) as built:
        for door in (built.fresh, built.pooled):  # a vendor's base_url is its operator's word
            for host in (NAME, "169.254.169.254", "[::ffff:169.254.169.254]", "[fd00:ec2::254]"):
                with pytest.raises(httpx.ConnectError, match="egress policy"):
                    await door.handle_async_request(httpx.Request("POST", f"http://{host}/v1", json={}))


async def test_a_listed_name_never_leads_to_the_machines_own_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stage([METADATA]) as at, wires(tmp_path, at.names, monkeypatch) as built:
        assert await post(built.hooks.links, at.letter(), NOW) == NOT_CONNECTED
