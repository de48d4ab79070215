"""The client's own retries buy nothing twice: the connection is cut at every point, and what fails says so.

With an idempotency key, which the client sends when it is given one. Not held here: what the gateway itself
survives (`tests/kill`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import openai
import pytest

from gateway.storage.db import StorageBusy, StorageError
from tests.api.bodies import png
from tests.clients.conftest import Place
from tests.clients.cutter import Cut, Cutter
from tests.serving import RENDER_SECONDS

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API")
STEP = 24  # every point is one in so many bytes, the first and the last ones always among them


@pytest.fixture(scope="module")
def cutter(place: Place) -> Iterator[Cutter]:
    laid = Cutter(place.served.settings.server.listen.port).laid()
    with place.served.portal.wrap_async_context_manager(laid) as started:
        yield started


@pytest.fixture
def client(cutter: Cutter, place: Place, monkeypatch: pytest.MonkeyPatch) -> openai.OpenAI:
    """It retries at once, and makes a new connection each time, so that each can be cut."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.0)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.0)
    return openai.OpenAI(
        base_url=f"http://127.0.0.1:{cutter.port}/v1", api_key=place.key,
        default_headers={"Connection": "close"},
    )


def points(length: int) -> list[int]:
    return sorted({0, 1, length // 2, length - 1, length, *range(0, length, STEP)})


def charged(place: Place, names: list[str]) -> dict[str, int]:
    """How often each was bought, when all that was accepted has been sent."""
    for video in place.client.get("/v1/videos", params={"limit": 100}).json()["data"]:
        place.served.started(video["id"], place.client)
    bought = [entry.client_reference for entry in place.served.ledger]
    return {name: bought.count(name) for name in names}


@pytest.mark.parametrize("way", ["asked", "answered"])
@pytest.mark.parametrize("reference", [None, png(640, 480, 300)], ids=["text", "file"])
def test_cut_anywhere_it_is_one_video_and_one_charge(
    place: Place, cutter: Cutter, client: openai.OpenAI, way: Any, reference: bytes | None  # noqa: ANN401
) -> None:
    def create(name: str) -> str:
        image = openai.omit if reference is None else reference
        key = {"Idempotency-Key": name}
        return client.videos.create(prompt=f"[[ref:{name}]]", input_reference=image, extra_headers=key).id

    kind = f"{way}-{'text' if reference is None else 'file'}"
    create(f"{kind}-whole")
    cuts = points(cutter.passed[way])
    assert len(cuts) > 20
    names = [f"{kind}-{after:05}" for after in cuts]  # as long as "whole"
    for name, after in zip(names, cuts, strict=True):
        before = cutter.connections
        cutter.next_cut = Cut(way, after)
        video_id = create(name)
        # A whole answer is taken although the connection then breaks.
        assert cutter.connections - before in ((1, 2) if way == "answered" else (2,)), name
        assert create(name) == video_id
        place.served.clock.now += RENDER_SECONDS  # the vendors' places are free again
    assert charged(place, names) == dict.fromkeys(names, 1)


def failing(error: Exception, calls: list[object]) -> Callable[..., Any]:
    async def fail(*arguments: object, **named: object) -> NoReturn:
        calls.append(arguments)
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "key", "tries"),
    [
        (StorageError("lost"), None, 1),  # perhaps it was stored: once more would be bought once more
        (StorageError("lost"), "k", 3),
        (RuntimeError("a fault"), None, 1),
        (StorageBusy("full"), None, 3),  # surely it was not
    ],
)
def test_what_may_have_been_stored_is_not_tried_again_without_a_key(
    place: Place, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch, error: Exception, key: str | None,
    tries: int,
) -> None:
    calls: list[object] = []
    monkeypatch.setattr(place.served.gateway.store, "video_add", failing(error, calls))
    headers = {} if key is None else {"Idempotency-Key": f"{key}-{error}"}
    with pytest.raises(openai.InternalServerError) as caught:
        client.videos.create(prompt="a fox", extra_headers=headers)
    assert len(calls) == tries
    may_repeat = caught.value.response.headers.get("x-should-retry") != "false"
    assert may_repeat is (tries > 1)


def test_what_will_not_change_is_not_tried_again(place: Place, client: openai.OpenAI, cutter: Cutter) -> None:
    video = client.videos.create(prompt="a fox")
    place.served.finish(video.id, place.client)
    before = cutter.connections
    with pytest.raises(openai.ConflictError) as caught:
        client.post(f"/videos/{video.id}/cancel", cast_to=object)
    assert caught.value.code == "not_cancellable"
    assert cutter.connections == before + 1
