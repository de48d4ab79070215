"""Collects a campaign's evidence at its end: waits for every end, then asks the gateway and the vendors.

Only public routes are asked. Not held here: the judgement (`history`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final

import httpx
import msgspec

from gateway.sandbox.renders import Entry
from tests.campaigns.history import Evidence, Order

_PAGE: Final = 100
_AT_ONCE: Final = 8
_UNFINISHED: Final = ("queued", "in_progress")


async def collect(url: str, vendor_url: str, orders: list[Order], within_seconds: float) -> Evidence:
    """Everything there is to see once all videos have ended, or, if some do not, after `within_seconds`."""
    patience = httpx.Timeout(60, pool=None)
    limits = httpx.Limits(max_connections=_AT_ONCE)
    async with httpx.AsyncClient(trust_env=False, timeout=patience, limits=limits) as client:
        with suppress(TimeoutError):  # whatever has no end by then, the checker names
            async with asyncio.timeout(within_seconds):
                await _all_ended(client, url)
        videos = await _list(client, f"{url}/v1/videos")
        timelines = await _timelines(client, url, [video["id"] for video in videos])
        entries = await _get(client, f"{vendor_url}/admin/ledger", "entries")
        jobs = await _get(client, f"{vendor_url}/admin/tasks", "tasks")
    return Evidence(
        orders=orders, videos=videos, timelines=timelines, ledger=msgspec.convert(entries, list[Entry]),
        states={(job["vendor"], job["vendor_task_id"]): job["state"] for job in jobs},
    )


async def _all_ended(client: httpx.AsyncClient, url: str) -> None:
    """Return when no video is unfinished."""
    while True:
        left = [video for status in _UNFINISHED for video in await _list(client, f"{url}/v1/videos", status)]
        if not left:
            return
        await _get(client, f"{url}/v1/videos/{left[-1]['id']}?wait=5", "id")


async def _list(client: httpx.AsyncClient, url: str, status: str | None = None) -> list[dict[str, Any]]:
    query: dict[str, str | int] = {"limit": _PAGE} | ({} if status is None else {"status": status})
    found: list[dict[str, Any]] = []
    while True:
        page = (await client.get(url, params=query)).raise_for_status().json()
        found += page["data"]
        if not page["has_more"]:
            return found
        query["after"] = page["last_id"]


async def _timelines(
    client: httpx.AsyncClient, url: str, ids: Iterable[str]
) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    left = list(ids)

    async def take() -> None:
        while left:
            video_id = left.pop()
            found[video_id] = await _get(client, f"{url}/v1/videos/{video_id}/timeline", "data")

    await asyncio.gather(*(take() for _ in range(_AT_ONCE)))
    return found


async def _get(client: httpx.AsyncClient, url: str, member: str) -> Any:  # noqa: ANN401 - bytes enter here
    return (await client.get(url)).raise_for_status().json()[member]
