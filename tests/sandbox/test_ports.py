"""Ports below HTTP: what a client meets there, and that a port comes back under the same number.

Not held here: what a gateway makes of it (`tests/faults`).
"""

from __future__ import annotations

import asyncio
import ssl

import httpx
import pytest
import trustme

from gateway.sandbox.server import Sandbox
from tests.sandbox.conftest import SETTINGS
from tests.sandbox.requests import PLAIN, create_path

pytestmark = pytest.mark.anyio

SHORT_SECONDS = 0.1  # only ever waited for where nothing may come


async def opened(client: httpx.AsyncClient, fault: str, port: int | None = None) -> str:
    answer = await client.post("/admin/ports", json={"fault": fault, "port": port})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["url"])


async def test_an_open_port_leads_to_the_vendors(client: httpx.AsyncClient, sandbox: Sandbox) -> None:
    url = await opened(client, "none")
    slug, body = PLAIN["myrouter"]
    assert (await client.post(url + create_path("myrouter", slug), json=body)).status_code == 200
    assert len(sandbox.ledger) == 1


async def test_a_port_is_shut_and_opened_again(client: httpx.AsyncClient) -> None:
    url = await opened(client, "connect_refused")
    with pytest.raises(httpx.ConnectError):
        await client.get(f"{url}/admin/health")
    assert await opened(client, "none", int(url.rsplit(":", 1)[1])) == url
    assert (await client.get(f"{url}/admin/health")).status_code == 200


async def test_a_blackhole_answers_no_connect(client: httpx.AsyncClient) -> None:
    url = await opened(client, "connect_blackhole")
    with pytest.raises(httpx.ConnectTimeout):
        await client.get(f"{url}/admin/health", timeout=SHORT_SECONDS)


@pytest.mark.parametrize(("fault", "error"), [
    ("handshake_reset", (ConnectionError, ssl.SSLError)), ("handshake_silence", TimeoutError),
])
async def test_a_handshake_that_fails(
    client: httpx.AsyncClient, fault: str, error: type[Exception] | tuple[type[Exception], ...]
) -> None:
    port = int((await opened(client, fault)).rsplit(":", 1)[1])
    with pytest.raises(error):
        async with asyncio.timeout(SHORT_SECONDS if error is TimeoutError else None):
            await asyncio.open_connection("127.0.0.1", port, ssl=ssl.create_default_context())


async def test_a_port_with_a_certificate_gives_links_of_its_own_scheme(sandbox: Sandbox) -> None:
    authority = trustme.CA()
    shown, trusting = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(shown)
    authority.configure_trust(trusting)
    port = await sandbox.ports.set("open", tls=shown)
    assert port.url.startswith("https://")
    headers = {"authorization": f"Bearer {SETTINGS.key}"}
    async with httpx.AsyncClient(base_url=port.url, headers=headers, verify=trusting) as client:
        slug, body = PLAIN["unified"]
        made = (await client.post(create_path("unified", slug), json=body)).json()["id"]
        sandbox.world.clock.now += 101  # type: ignore[attr-defined]  # the test's own clock
        told = (await client.get(f"/unified/v1/tasks/{made}")).json()
        assert told["results"][0]["url"].startswith(f"{port.url}/files/")
        assert (await client.get(told["results"][0]["url"])).status_code == 200


async def test_ports_are_asked_for_in_the_right_words(client: httpx.AsyncClient) -> None:
    for wrong in ({"fault": "hang"}, {"fault": "none", "port": 1}, {"fault": "none", "x": 1}, {}):
        assert (await client.post("/admin/ports", json=wrong)).status_code == 400, wrong
    assert (await client.get("/admin/ports")).status_code == 405
    armed = await client.post("/admin/faults", json={"fault": "connect_refused"})
    assert (armed.status_code, "POST /admin/ports" in armed.json()["error"]) == (400, True)
    url = await opened(client, "none")
    assert (await client.delete("/admin/ports")).status_code == 200
    with pytest.raises(httpx.ConnectError):
        await client.get(f"{url}/admin/health")
