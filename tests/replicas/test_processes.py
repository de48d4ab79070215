"""Replicas as processes of their own: parts of a gateway, and a restart with much to go on with."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import httpx
import pytest

from gateway.core.facts import Candidate
from gateway.core.states import accepted_event
from gateway.engine.replica import ReplicaRole
from gateway.storage.rows import NewVideo
from gateway.storage.sqlite import SqliteDatabase
from gateway.storage.store import Store
from tests.core.made import make_task
from tests.kill.points import Points
from tests.kill.process import Gateway, launcher, run
from tests.replicas.house import CONFIGURATION, House, house, reached, read
from tests.serving import free_port

pytestmark = pytest.mark.anyio

LEFT: Final = 2_000
AT_ONCE: Final = 200
SLUG: Final = "kling-v3.0-std-t2v"


def _written(folder: Path, name: str, store: str, vendors: str) -> tuple[Path, int]:
    """A configuration in a file, and its port."""
    port, path = free_port(), folder / f"{name}.toml"
    path.write_text(CONFIGURATION.format(port=port, store=store, vendors=vendors), "utf-8")
    return path, port


@asynccontextmanager
async def _serving(
    folder: Path, place: House, role: ReplicaRole
) -> AsyncIterator[tuple[Gateway, httpx.AsyncClient]]:
    path, port = _written(folder, role, place.url, place.sandbox.url)
    client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60)
    async with launcher() as starter, client:
        gateway = await starter.begin(path, Points(), role=role)
        assert await gateway.log.wait("ready"), list(gateway.log.lines)
        yield gateway, client


async def test_one_process_answers_callers_and_another_follows(tmp_path: Path) -> None:
    async with house(tmp_path, is_empty=True) as place, _serving(tmp_path, place, "api") as (_, api):
        body = {"prompt": "ordered before anybody follows", "duration": 5, "provider": "highway"}
        video = read(await api.post("/v1/videos", json=body))
        assert (video["status"], video["stage"]) == ("queued", "waiting")
        assert place.prompts() == []
        async with _serving(tmp_path, place, "engine") as (_, engine):
            for path in ("/livez", "/readyz", "/metrics"):
                assert (await engine.get(path)).status_code == httpx.codes.OK, path
                assert (await api.get(path)).status_code == httpx.codes.OK, path
            for path in ("/v1/videos", f"/v1/videos/{video['id']}", "/v1/providers", "/openapi.json"):
                assert (await engine.get(path)).status_code == httpx.codes.NOT_FOUND, path
                assert (await api.get(path)).status_code == httpx.codes.OK, path
            assert (await engine.post("/v1/videos", json=body)).status_code == httpx.codes.NOT_FOUND
            more = read(await api.post("/v1/videos", json=body | {"prompt": "and one after"}))
            held = [asyncio.create_task(api.get(f"/v1/videos/{one['id']}?wait=30")) for one in (video, more)]
            await reached(lambda: len(place.sandbox.ledger) == 2)
            place.finish()
            assert [read(await one)["status"] for one in held] == ["completed"] * 2
    assert sorted(place.prompts()) == ["and one after", "ordered before anybody follows"]


async def test_a_part_says_what_it_needs(tmp_path: Path) -> None:
    path, _ = _written(tmp_path, "alone", "sqlite:reelgate.db", "http://127.0.0.1:9")
    code, _, said = await run("serve", "--config", str(path), "--role", "api")
    assert (code, "Traceback" in said) == (1, False)
    assert "--role api needs a database to share: [store] url = postgresql://..." in said


@pytest.mark.long
async def test_a_restart_with_much_under_way_asks_for_all_of_it_soon(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "reelgate.db")
    await database.migrate()
    await _left_rendering(Store(database))
    await database.close()
    asked: dict[str, float] = {}
    has_all = asyncio.Event()
    async with _counting(asked, has_all) as vendors, launcher() as starter:
        path, _ = _written(tmp_path, "again", "sqlite:reelgate.db", vendors)
        text = path.read_text("utf-8")  # polled as often as with a user
        path.write_text(text.replace('"10ms"', '"2s"').replace('"20ms"', '"30s"'), "utf-8")
        gateway = await starter.begin(path, Points())
        began = time.monotonic()  # the program is imported, and its process exists
        assert await gateway.log.wait("ready")
        ready = time.monotonic() - began
        async with asyncio.timeout(60):
            await has_all.wait()
    first, last = (pick(asked.values()) - began for pick in (min, max))
    told = {"ready": ready, "first poll": first, "all polled": last}
    figures = ", ".join(f"{name} {seconds * 1000:.0f} ms" for name, seconds in told.items())
    sys.stdout.write(f"{LEFT} rendering: {figures}\n")
    assert len(asked) == LEFT


async def _left_rendering(store: Store) -> None:
    """What a process left that had so many jobs at its vendor."""
    now = time.time()

    def left(number: int) -> NewVideo:
        job = f"job-{number}"
        task = make_task(
            f"video_{number:032x}", owner="local", state="rendering", stage="rendering", replica="gone",
            candidates=(Candidate("highway", SLUG),), provider="highway", offering=SLUG,
            vendor_task_id=job, ref='{"task_id":null}',
            raw_status="TASK_STATUS_PROCESSING", charged="yes",
            attempts=1, created_at=now, submitted_at=now, started_at=now, deadline_at=now + 3600,
        )
        text = '{"model":"kling-v3","prompt":"left"}'
        return NewVideo(task=task, request=text, metadata={}, inputs={}, events=(accepted_event(task),))

    for first in range(0, LEFT, AT_ONCE):
        batch = range(first, first + AT_ONCE)
        await asyncio.gather(*(store.video_add(left(number)) for number in batch))


@asynccontextmanager
async def _counting(asked: dict[str, float], has_all: asyncio.Event) -> AsyncIterator[str]:
    """A vendor whose renders go on and on; when it was first asked for each job, on `time.monotonic`."""
    text = '{{"task":{{"task_id":"{}","status":"TASK_STATUS_PROCESSING"}},"videos":[]}}'
    head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{}"

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await reader.readuntil(b"\r\n\r\n"):
                job = request.split(b" ", 2)[1].decode().partition("task_id=")[2]
                asked.setdefault(job, time.monotonic())
                if len(asked) == LEFT:
                    has_all.set()
                body = text.format(job)
                writer.write(head.format(len(body), body).encode())
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(converse, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
