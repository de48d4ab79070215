"""Nothing that somebody else names makes the gateway connect to a private place: posts, files, redirects.

Held here: the corpus against whoever posts and fetches, on real sockets and real DNS. Not held here: the
corpus (`ssrf_corpus`), the API (`test_ssrf_api`), answers that change (`test_egress_dns`).
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final, NamedTuple

import pytest

from gateway.engine.collect import LinkRefused, Links, LinkUnreachable, open_link
from gateway.engine.webhooks import Answer, Hooks, Letter, post
from gateway.values import Secret
from providers.egress import AddressPolicy, Reach, guard, origin
from providers.transport import Transport
from tests.providers.wire import default_tls
from tests.security.egress_dns import DNS, Resolver, dns
from tests.security.ssrf_corpus import GROUPS, VECTORS, Canary, Place, Vector, canary, connects, zone

pytestmark = pytest.mark.anyio

SECRET: Final = Secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
NOW: Final = 1_800_000_000.0
REACHES: Final[tuple[Reach, ...]] = ("origin", "public", "listed")
CODES: Final = ("301 Moved", "302 Found", "303 See", "307 Elsewhere", "308 Elsewhere")
NOTHING: Final = AddressPolicy()
# With anything listed a plain http name is looked up, too. Nobody in the corpus lives there.
SOMETHING: Final = AddressPolicy((ipaddress.ip_network("10.99.0.0/16"),), hosts=frozenset({"hooks.internal"}))
EVERYTHING: Final = AddressPolicy((ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")))
POLICIES: Final = pytest.mark.parametrize("policy", [NOTHING, SOMETHING], ids=["nothing", "something"])
each_group = pytest.mark.parametrize("group", GROUPS)


@asynccontextmanager
async def links_by(policy: AddressPolicy, names: DNS) -> AsyncIterator[Links]:
    """Links as the gateway builds them, but for whom they ask for addresses."""
    made = {
        reach: Transport(fresh=True, guard=guard(policy, reach), tls=default_tls(), resolver=Resolver(names))
        for reach in REACHES
    }
    yield Links(policy, made)
    for transport in made.values():
        await transport.aclose()


class Stage(NamedTuple):
    """A canary, names, and links under a policy."""

    bird: Canary
    names: DNS
    links: Links


@asynccontextmanager
async def stage(policy: AddressPolicy) -> AsyncIterator[Stage]:
    async with canary() as bird, dns(zone()) as names, links_by(policy, names) as links:
        yield Stage(bird, names, links)


@contextmanager
def nothing_connects(at: Stage, *but: tuple[str, int]) -> Iterator[None]:
    """Fails when anything but the DNS server and `but` is connected to, or the canary hears of anybody."""
    with connects() as heard:
        yield
    assert at.bird.connections == 0
    assert set(heard) <= {str(at.names.address), *map(str, but)}


def of(group: str, place: Place) -> list[Vector]:
    return [row for row in VECTORS if row.group == group and place in row.places]


def test_the_corpus_is_large_and_every_row_is_another() -> None:
    assert len(VECTORS) >= 250
    assert len({row.url for row in VECTORS}) == len({row.name for row in VECTORS}) == len(VECTORS)
    assert {place for row in VECTORS for place in row.places} == {"webhook", "result", "redirect"}


def letter(url: str) -> Letter:
    return Letter(id="msg_1", url=url, body="{}", secrets=(SECRET,))


@each_group
async def test_no_webhook_goes_there(group: str) -> None:
    async with stage(NOTHING) as at:
        hooks, wrong = Hooks(at.links, (SECRET,)), []
        with nothing_connects(at):
            for row in of(group, "webhook"):
                url = row.at(at.bird.port)
                found = await post(at.links, letter(url), NOW)
                is_refused = hooks.refuses(url) is not None, hooks.refuses_own(url) is not None
                if (found, {*is_refused}) != (Answer(error=row.expected), {row.expected == "refused"}):
                    wrong.append((row.name, found, is_refused))
    assert not wrong


@each_group
async def test_no_webhook_goes_there_where_others_may(group: str) -> None:
    async with stage(SOMETHING) as at:
        with nothing_connects(at):
            for row in of(group, "webhook"):
                found = await post(at.links, letter(row.at(at.bird.port)), NOW)
                assert found in (Answer(error="refused"), Answer(error="not_connected")), row.name


@POLICIES
@each_group
async def test_no_file_is_fetched_from_there(group: str, policy: AddressPolicy) -> None:
    async with stage(policy) as at:
        with nothing_connects(at):
            for row in of(group, "result"):
                with pytest.raises((LinkRefused, LinkUnreachable)) as caught:
                    await open_link(at.links, row.at(at.bird.port), None)
                is_known = row.expected == "refused" and policy is NOTHING
                assert not is_known or caught.type is LinkRefused, row.name
                assert "127.0.0.1" not in str(caught.value), "what was found inside is nobody's business"


async def test_the_machines_own_credentials_are_never_fetched_though_all_is_listed() -> None:
    others = "instance-data", "169.254.169.254.nip.io", "alias-to-metadata.test"
    names = {f"name {name}" for name in others} | {row.name for row in VECTORS if "name metadata" in row.name}
    rows = [row for row in VECTORS if row.group == "metadata" or row.name in names]
    assert len(rows) >= 40
    async with stage(EVERYTHING) as at:
        hooks = Hooks(at.links, (SECRET,))
        with nothing_connects(at):
            for row in rows:
                found = await post(at.links, letter(row.at(at.bird.port)), NOW)
                is_refused = hooks.refuses(row.at(at.bird.port)) is not None
                assert found == Answer(error="refused" if is_refused else "not_connected"), row.name
                assert is_refused or row.group == "name", row.name


class Redirecting:
    """A vendor's file server: `/n` leads to `/n-1`, and `/0`, or any other path, to `target`."""

    def __init__(self) -> None:
        self.target, self.code, self.port = "", CODES[0], 0

    async def met(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        last = head.split(b" ")[1].rpartition(b"/")[2].decode()
        target = f"/{int(last) - 1}" if last.isdigit() and int(last) else self.target
        line = f"HTTP/1.1 {self.code}\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n"
        writer.write(line.encode())
        await writer.drain()
        writer.close()


async def followed(links: Links, url: str) -> str:
    """What came of a link: `opened`, or why not."""
    try:
        await (await open_link(links, url, None)).close()
    except (LinkRefused, LinkUnreachable) as error:
        return str(error)
    return "opened"


@asynccontextmanager
async def redirecting() -> AsyncIterator[Redirecting]:
    found = Redirecting()
    server = await asyncio.start_server(found.met, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    yield found
    server.close()


@POLICIES
@each_group
async def test_no_redirect_leads_there(group: str, policy: AddressPolicy) -> None:
    async with redirecting() as vendor:
        home = f"http://127.0.0.1:{vendor.port}"
        judged = AddressPolicy(policy.allow, frozenset({origin(home)}), policy.hosts)
        async with stage(judged) as at:
            with nothing_connects(at, ("127.0.0.1", vendor.port)):
                for number, row in enumerate(of(group, "redirect")):
                    vendor.target, vendor.code = row.at(at.bird.port), CODES[number % len(CODES)]
                    assert await followed(at.links, f"{home}/{number % 3}") != "opened", row.name


async def test_the_canary_hears_whoever_comes() -> None:
    """The corpus is sharp: without a policy its loopback names and addresses are connected to."""
    urls = {"https://127.0.0.1:{port}/", "http://127.0.0.1:{port}/"}
    near = [row for row in VECTORS if row.dns in (("A 127.0.0.1",), ("CNAME localhost",)) or row.url in urls]
    async with stage(EVERYTHING) as at:
        usable = [row for row in near if at.links.refuses(row.at(at.bird.port)) is None]
        assert len(usable) >= 15
        for row in usable:
            before = at.bird.connections
            await post(at.links, letter(row.at(at.bird.port)), NOW)
            assert at.bird.connections == before + 1, row.name
