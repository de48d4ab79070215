"""The corpus over HTTP: what a caller may name as a webhook's place, and as an image, where the form counts.

Held here: the routes of a whole gateway, and a name that turns private behind them. Not held here: the corpus
(`ssrf_corpus`), posting and fetching by themselves (`test_ssrf`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler
from typing import Final
from unittest import mock

import pytest
from anyio.from_thread import start_blocking_portal

from gateway import assembly
from providers.transport import Transport
from tests.security.egress_dns import DNS, Resolver, dns
from tests.security.ssrf_corpus import VECTORS, Canary, canary, connects, zone
from tests.serving import Json, OddVendor, Served, odd_vendor, problem, read, serving

SECRET: Final = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MORE: Final = """
[webhooks]
secrets = [{ file = "hook" }]
"""
ODD: Final = """
[providers.odd]
adapter = "highwayapi"
base_url = "{url}"
api_key = {{ env = "KEY" }}
poll_min = "10ms"
poll_max = "20ms"
"""
ENDPOINTS: Final = "/v1/webhook_endpoints"
PORT: Final = 4443
WRITABLE: Final = [row for row in VECTORS if not re.search("[\ud800-\udfff]", row.url)]  # as JSON


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("ssrf")
    (folder / "hook").write_text(SECRET)
    with serving(folder, more=MORE) as started:
        yield started


def test_no_request_names_such_a_place_for_its_webhook(served: Served) -> None:
    for row in (row for row in WRITABLE if row.expected == "refused"):
        body = {"prompt": "a fox", "webhook_url": row.at(PORT)}
        found = problem(served.client.post("/v1/videos", json=body), 400, "invalid_request")
        assert found["param"] == "webhook_url", row.name


def test_no_endpoint_is_such_a_place(served: Served) -> None:
    for row in (row for row in WRITABLE if row.expected == "refused"):
        found = problem(served.client.post(ENDPOINTS, json={"url": row.at(PORT)}), 400, "invalid_request")
        assert found["param"] == "url", row.name
    assert read(served.client.get(ENDPOINTS))["data"] == []


@pytest.mark.parametrize("field", ["image", "end_image"])
def test_of_an_image_only_the_form_counts(served: Served, field: str) -> None:
    """It is the vendor that fetches it: we look nothing up, and connect to nobody."""
    address = served.settings.server.listen
    with connects() as heard, mock.patch("socket.getaddrinfo", side_effect=AssertionError("looked up")):
        for row in WRITABLE:
            images = {"image": "https://images.example/a.png"} | {field: row.at(PORT)}
            answer = served.client.post("/v1/videos/plan", json={"prompt": "a fox"} | images)
            assert answer.status_code == (200 if row.image == "taken" else 400), (row.name, answer.text)
            if row.image == "refused":
                assert read(answer)["param"] == field, row.name
                continue
            bodies = [each["request"]["body"] for each in read(answer)["candidates"]]
            assert all(row.at(PORT) in body.values() for body in bodies), row.name
    assert set(heard) <= {str((address.host, address.port))}


class House:
    """A whole gateway whose names a test answers for, a vendor that does as told, and a canary."""

    def __init__(self, served: Served, vendor: OddVendor, names: DNS, bird: Canary) -> None:
        self.served, self.vendor, self.names, self.bird = served, vendor, names, bird


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("house")
    (folder / "hook").write_text(SECRET)
    with (
        start_blocking_portal("asyncio") as portal,
        portal.wrap_async_context_manager(dns(zone())) as names,
        portal.wrap_async_context_manager(canary()) as bird,
        odd_vendor() as vendor,
        mock.patch.object(assembly, "Transport", partial(Transport, resolver=Resolver(names))),
        serving(folder, more=MORE + ODD.format(url=vendor.url)) as started,
    ):
        yield House(started, vendor, names, bird)


INSIDE: Final = ("localtest.me", "alias-of-alias.test", "six.test", "mapped.test", "several.test", "vcap.me.")


@pytest.mark.parametrize("name", INSIDE)
def test_neither_a_result_nor_a_webhook_leads_inside_by_name(house: House, name: str) -> None:
    inside = f"https://{name}:{house.bird.port}"
    house.vendor.link = f"{inside}/a.mp4"
    video = house.served.completed(provider="odd", webhook_url=f"{inside}/hook")
    content = problem(house.served.client.get(video["output"]["url"]), 502, "vendor_unavailable")
    assert "127.0.0.1" not in str(content)
    tried = _tried(house.served, video["id"])
    assert (tried["http_status"], tried["error"]) == (None, "not_connected")
    assert (name.rstrip("."), 1) in house.names.asked
    assert house.bird.connections == 0


def test_a_redirect_of_the_vendors_own_file_leads_nowhere_inside(house: House) -> None:
    def away(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", f"https://alias.test:{house.bird.port}/a.mp4")
        handler.end_headers()

    house.vendor.link, house.vendor.send_file = None, away
    video = house.served.completed(provider="odd")
    problem(house.served.client.get(video["output"]["url"]), 502, "vendor_unavailable")
    assert ("alias.test", 1) in house.names.asked
    assert house.bird.connections == 0


def _tried(served: Served, video_id: str) -> Json:
    """What came of the first try to send a webhook, once there was one."""
    events: list[Json] = []
    for _ in range(1_000):
        events = read(served.client.get(f"/v1/videos/{video_id}/timeline"))["data"]
        for event in events:
            if event["type"] == "webhook_try":
                return dict(event["detail"])
    raise AssertionError(events)
