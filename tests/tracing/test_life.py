"""One trace of a whole life, told by processes that know nothing of each other.

Held here: the tree of spans over a restart and over two replicas. Not held here: what is never told
(`test_reach`), metrics and the log (`test_told`).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.kill.process import KEY, ROOT, launcher
from tests.replicas.house import house, read
from tests.tracing.receiver import Receiver, Span, receiver, tree
from tests.tracing.stage import (
    CALLER,
    PROMPT,
    SECRET,
    TRACE,
    TRACEPARENT,
    called,
    configuration,
    started,
    tracing_to,
)

pytestmark = [pytest.mark.anyio, pytest.mark.long]

PAGE: Final = ROOT / "deploy/tracing.md"


def of_trace(spans: Sequence[Span]) -> list[Span]:
    """Those of the caller's trace."""
    return [span for span in spans if span.trace_id == TRACE]


def named(spans: Sequence[Span], name: str) -> list[Span]:
    return [span for span in spans if span.name == name]


async def has(got: Receiver, name: str) -> None:
    """Return when a span of that name came."""
    await asyncio.to_thread(got.wait, lambda spans: bool(named(of_trace(spans), name)))


BEFORE = """\
POST /v1/videos
  INSERT videos
  admission
  submit
    POST
    UPDATE videos
"""
WHOLE = """\
POST /v1/videos
  INSERT videos
  POST
  admission
  poll
    GET
    UPDATE videos
  store file
    UPDATE videos
  submit
    POST
    UPDATE videos
"""


async def test_a_life_over_a_restart_is_one_trace(tmp_path: Path) -> None:
    with receiver() as got, called({}) as hook:
        async with house(tmp_path, is_shared=False) as place, launcher() as starter:
            where = configuration(tmp_path, f"{place.sandbox.url}/highwayapi", tracing_to(got.url))
            async with started(starter, where) as (_, client):
                body = {"prompt": PROMPT, "webhook_url": f"{hook.url}/hook/secret?token=canary"}
                answer = await client.post("/v1/videos", json=body, headers={"traceparent": TRACEPARENT})
                video = read(answer)["id"]
                await has(got, "submit")
            assert tree(of_trace(got.spans)) == BEFORE
            async with started(starter, where) as (_, client):
                place.finish()
                assert read(await client.get(f"/v1/videos/{video}?wait=30"))["status"] == "completed"
                await asyncio.to_thread(hook.wait, 1)
                await has(got, "store file")
    spans = of_trace(got.spans)
    assert tree(spans) == WHOLE
    request = named(spans, "POST /v1/videos")[0]
    assert (request.kind, request.parent, request.is_error) == ("server", CALLER, False)
    assert request.facts["http.response.status_code"] == 202
    instances = {span.name: span.instance["service.instance.id"] for span in spans}
    assert instances["submit"] != instances["poll"]  # of two processes
    assert all(span.began <= span.ended for span in spans)
    assert not any(span.is_error for span in spans)
    told = {name for span in got.spans for name in span.facts}
    assert told <= set(re.findall(r"`([a-z_.]+)`", PAGE.read_text("utf-8")))
    secrets = (PROMPT, KEY, SECRET, "secret", "canary", "?")
    assert not [word for word in secrets if word in repr(got.spans)]
    (message,) = [span for span in named(spans, "POST") if span.parent == request.id]
    assert hook.made[0][2]["traceparent"] == f"00-{TRACE}-{message.id}-01"


async def test_two_replicas_tell_one_trace(tmp_path: Path) -> None:
    with receiver() as got:
        async with (
            house(tmp_path, is_empty=True) as place, launcher() as first, launcher() as second,
        ):
            vendor, on = f"{place.sandbox.url}/highwayapi", tracing_to(got.url)
            api, engine = (configuration(tmp_path, vendor, on, place.url) for _ in range(2))
            async with (
                started(first, api, "api") as (_, client), started(second, engine, "engine"),
            ):
                headers = {"traceparent": TRACEPARENT}
                answer = await client.post("/v1/videos", json={"prompt": PROMPT}, headers=headers)
                video = read(answer)["id"]
                await has(got, "submit")
                place.finish()
                assert read(await client.get(f"/v1/videos/{video}?wait=30"))["status"] == "completed"
                await has(got, "store file")
    spans = of_trace(got.spans)
    request = named(spans, "POST /v1/videos")[0]
    elsewhere = [span for span in spans if span.instance != request.instance]
    assert {span.name for span in elsewhere if span.parent == request.id} == {
        "admission", "submit", "poll", "store file",
    }
    assert named(spans, "INSERT videos")[0].facts["db.system.name"] == "postgresql"
    assert named(spans, "admission")[0].facts["reelgate.video.id"] == video
