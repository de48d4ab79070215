"""A video is not deleted while its submit is under way, whichever replica is asked: its job would be lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from gateway.api import videos
from gateway.engine import submit
from tests.replicas import house as house_module
from tests.replicas.house import House, house, reached, read
from tests.serving import problem

pytestmark = pytest.mark.anyio


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as made:
        yield made


@pytest.fixture
async def answers(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Vendors have taken a job at once; their answers are held back until this is set."""
    call, may_come = submit._call, asyncio.Event()  # noqa: SLF001 - between the vendor's word and our ear

    async def slow(*arguments: Any) -> Any:  # noqa: ANN401 - as it is called
        found = await call(*arguments)
        await may_come.wait()
        return found

    monkeypatch.setattr(submit, "_call", slow)
    return may_come


@pytest.mark.parametrize("asked", [0, 1], ids=["the owner", "another"])
async def test_a_detached_video_is_deleted_once_its_answer_is_here(
    place: House, answers: asyncio.Event, asked: int
) -> None:
    async with place.replicas(2) as two:
        owner, at = two[0], two[asked]
        video = await owner.create("let go while it is sent")
        await reached(lambda: len(place.sandbox.ledger) == 1)
        path = f"/v1/videos/{video['id']}"
        told = read(await at.post(f"{path}/cancel?detach=true"))
        assert (told["status"], told["charged"]) == ("cancelled", "unknown")
        refused = problem(await at.client.delete(path), 409, "not_ready")
        assert (refused["charged"], refused["retryable"]) == ("unknown", True)
        answers.set()
        job = place.sandbox.ledger[0].vendor_task_id
        known = await owner.until(video["id"], lambda video: video["vendor_task_id"] is not None)
        assert (known["vendor_task_id"], known["charged"]) == (job, "yes")
        await reached(lambda: video["id"] not in owner.gateway.engine.sending)
        assert (await at.client.delete(path)).status_code == 200


@pytest.mark.parametrize("name", ["highway", "renamed"])
async def test_of_an_answer_that_never_comes_it_is_not_waited_for_ever(
    place: House, answers: asyncio.Event, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Also where a replica has a newer configuration, in which that provider is no more."""
    async with place.replica() as owner, AsyncExitStack() as stack:
        newer = house_module.CONFIGURATION.replace("[providers.highway]", f"[providers.{name}]")
        monkeypatch.setattr(house_module, "CONFIGURATION", newer)
        other = await stack.enter_async_context(place.replica())
        video = await owner.create("its sender is gone")
        await reached(lambda: len(place.sandbox.ledger) == 1)
        path, sent_at = f"/v1/videos/{video['id']}", owner.gateway.now()
        read(await other.post(f"{path}/cancel?detach=true"))
        patience = owner.gateway.fleet.providers["highway"].settings.submit_timeout
        patience += submit.BACKSTOP_SECONDS + videos.SAVE_SECONDS
        monkeypatch.setattr(other.gateway, "now", lambda: sent_at + patience - 5)
        problem(await other.client.delete(path), 409, "not_ready")
        monkeypatch.setattr(other.gateway, "now", lambda: sent_at + patience)
        assert (await other.client.delete(path)).status_code == 200
        answers.set()
