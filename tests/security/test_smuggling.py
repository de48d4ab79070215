"""Requests of two meanings have none: a gateway and an nginx before it refuse each, and what is behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gateway.settings import Address
from tests.security.proxy import nginx, said, statuses
from tests.security.smuggling import MARKER, ODD, REFUSED
from tests.serving import Served, read, serving

CASES_LEAST = 60
OWN_WORDS = {501, 505}  # of nginx: a coding it does not know, a version it does not speak


class Stage:
    """A gateway, an nginx before it, and a key that may create."""

    def __init__(self, served: Served, proxy: Address) -> None:
        self.gateway, self.proxy = served.settings.server.listen, proxy
        self._key = served.new_key("caller")
        self._client = served.client_with({"Authorization": f"Bearer {self._key}"})

    def send(self, address: Address, raw: bytes) -> list[int]:
        """The statuses that come back on a connection of its own, with a marker behind `raw`."""
        whole = (raw + MARKER).replace(b"@host@", str(self.gateway).encode())
        return statuses(said(address, whole.replace(b"@key@", self._key.encode())))

    def videos(self) -> int:
        """How many there are, by the gateway's own record."""
        return len(read(self._client.get("/v1/videos", params={"limit": 100}))["data"])

    def next_caller(self) -> int:
        """What somebody else gets who asks for nothing special, by way of nginx."""
        raw = b"GET /v1/version HTTP/1.1\r\nHost: a\r\n\r\n"
        answers = said(self.proxy, raw)
        assert b'"reelgate"' in answers
        (status,) = statuses(answers)
        return status


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """All cases share one: what one leaves behind would be in the way of the next."""
    data, around = tmp_path_factory.mktemp("gateway"), tmp_path_factory.mktemp("nginx")
    with serving(data, auth="keys") as served, nginx(around, served.settings.server.listen) as proxy:
        yield Stage(served, proxy)


def test_there_are_cases_enough() -> None:
    assert len(REFUSED) >= CASES_LEAST


@pytest.mark.parametrize("name", REFUSED)
def test_a_request_of_no_meaning_is_refused_by_both(stage: Stage, name: str) -> None:
    before = stage.videos()
    directly = stage.send(stage.gateway, REFUSED[name])
    proxied = stage.send(stage.proxy, REFUSED[name])
    assert len(directly) <= 1
    assert len(proxied) <= 1
    assert all(400 <= status < 500 for status in directly), directly
    assert all(400 <= status < 500 or status in OWN_WORDS for status in proxied), proxied
    assert stage.next_caller() == 200
    assert stage.videos() == before


@pytest.mark.parametrize("name", ODD)
def test_a_request_that_is_spelled_oddly_has_one_answer_and_no_other_behind(stage: Stage, name: str) -> None:
    odd, before = ODD[name], stage.videos()
    assert stage.send(stage.gateway, odd.raw) == [odd.directly]
    assert stage.send(stage.proxy, odd.raw) == [odd.proxied]
    assert stage.next_caller() == 200
    assert stage.videos() - before == [odd.directly, odd.proxied].count(202)
