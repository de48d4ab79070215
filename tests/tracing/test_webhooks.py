"""A webhook joins the trace of its video, each try of it, on every database.

Not held here: how webhooks are sent otherwise (`tests/engine/test_webhooks.py`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import httpx
import pytest
from msgspec.structs import replace

from gateway.core.facts import Cancelled
from gateway.core.tasks import apply
from gateway.storage.db import Database
from gateway.storage.store import Store
from tests.core.made import NOW, make_task
from tests.serving import Json, read, serving
from tests.storage.stores import DATABASES, new, opened
from tests.tracing.receiver import receiver
from tests.tracing.stage import TRACE, TRACEPARENT, called, tracing_to

PATH: Final = "/v1/webhook_endpoints"
_WAYS: Final = '[egress]\nallow = ["127.0.0.0/8"]\n'


def endpoint(client: httpx.Client, url: str) -> Json:
    """A new endpoint."""
    answer = client.post(PATH, json={"url": f"{url}/in", "events": ["video.completed"]})
    return read(answer)


@pytest.mark.parametrize("is_on", [False, True])
def test_each_try_says_where_in_the_trace_it_is(tmp_path: Path, is_on: bool) -> None:
    with receiver() as got, called({}) as hook:
        more = _WAYS + (tracing_to(got.url) if is_on else "")
        with serving(tmp_path, more=more) as served:
            place = endpoint(served.client, hook.url)["id"]
            served.completed(served.client_with({"traceparent": TRACEPARENT}))
            hook.wait(1)
            served.client.post(f"{PATH}/{place}/replay", json={"since": 0}).raise_for_status()
            hook.wait(2)
    sent = [headers["traceparent"] for _, _, headers in hook.made]
    tries = [span for span in got.spans if "reelgate.webhook.id" in span.facts]
    assert sent == ([f"00-{TRACE}-{span.id}-01" for span in tries] if is_on else [TRACEPARENT] * 2)
    assert {span.facts["http.response.status_code"] for span in tries} == ({200} if is_on else set())
    assert "/in" not in repr(tries)


def test_a_try_that_fails_is_an_error(tmp_path: Path) -> None:
    with receiver() as got, called({}, refused=1) as hook:
        more = _WAYS + tracing_to(got.url)
        with serving(tmp_path, more=more) as served:
            endpoint(served.client, hook.url)
            served.completed()
            hook.wait(1)
            got.wait(lambda spans: any("reelgate.webhook.id" in span.facts for span in spans))
    (made,) = [span for span in got.spans if "reelgate.webhook.id" in span.facts]
    assert (made.is_error, made.facts["error.type"]) == (True, "503")


@pytest.fixture(params=DATABASES)
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    async with opened(request.param, tmp_path) as one:
        yield one


@pytest.mark.anyio
@pytest.mark.parametrize("traceparent", [TRACEPARENT, None])
async def test_it_is_kept_with_the_video_and_found_with_its_messages(
    database: Database, traceparent: str | None
) -> None:
    store = Store(database)
    task = make_task(traceparent=traceparent)
    hook = {"webhook_url": "http://10.0.0.1/in", "webhook_origin": "http://10.0.0.1:80"}
    await store.video_add(replace(new(task), **hook))
    assert await store.task_get(task.id) == task
    await store.task_save(apply(task, Cancelled(), NOW))
    ((target, _),) = await store.webhooks.targets()
    (message,) = await store.webhooks.due(target, NOW, 9)
    assert (message.traceparent, message.is_orphan) == (traceparent, False)
    assert await store.webhooks.claim(message, "one", NOW + 60, "rendered")
    (again,) = await store.webhooks.due(target, NOW + 60, 9)
    assert (again.task, again.traceparent) == (None, traceparent)
    assert await store.video_delete(task.id, task.owner)
    (left,) = await store.webhooks.due(target, NOW + 60, 9)
    assert (left.is_orphan, left.traceparent) == (True, None)
