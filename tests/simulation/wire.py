"""The way between a gateway process and the vendors, in place of sockets: an httpx transport of one process.

What has left the process arrives, whether the process lives on or not; what comes back to a dead one is lost.
Not held here: what a vendor does (`vendor`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

import httpx
import msgspec

from tests.simulation.history import Submission
from tests.simulation.vendor import SUBMITS, Reply, Row, Vendor

if TYPE_CHECKING:
    from tests.simulation.process import Process

_CONNECT_SECONDS = 10.0


class _Body(httpx.AsyncByteStream):
    """A body in one piece, or the first half of one. Whoever has read it to its end was told."""

    def __init__(self, content: bytes, *, is_cut: bool, on_read: Callable[[], None]) -> None:
        self._content, self._is_cut, self._on_read = content, is_cut, on_read

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._is_cut:
            yield self._content[: len(self._content) // 2]
            raise httpx.RemoteProtocolError("the body is shorter than announced")
        yield self._content
        self._on_read()


class Wire(httpx.AsyncBaseTransport):
    """The transports of one process, for submits and polls alike. Raises httpx.TransportError as planned."""

    def __init__(self, process: Process) -> None:
        self._process, self._world = process, process.world

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send it to the vendor of that host, wait for what comes back."""
        self._process.must_live()
        vendor = self._world.vendors[request.url.host]
        if request.method == "POST":
            reply = await self._submit(vendor, request)
        else:
            reply = await self._poll(vendor, request)
        said = reply.said
        if reply.end == "refused":
            raise httpx.ConnectError("connection refused", request=request)
        if reply.end == "connect_timeout":
            raise httpx.ConnectTimeout("no connection", request=request)
        if reply.end == "reset":
            raise httpx.ReadError("connection reset", request=request)
        assert said is not None
        headers = [] if said.retry_after is None else [(b"Retry-After", said.retry_after.encode())]

        def on_read() -> None:
            if reply.on_delivered is not None:
                reply.on_delivered(self._process.number)

        body = _Body(said.body, is_cut=reply.end == "cut", on_read=on_read)
        return httpx.Response(said.status, headers=headers, stream=body, request=request)

    async def _submit(self, vendor: Vendor, request: httpx.Request) -> Reply:
        world, process = self._world, self._process
        name = vendor.plan.name
        order = int(str(msgspec.json.decode(request.content)["prompt"]).rsplit(" ", 1)[1])
        kind, row = vendor.connects()
        world.say(name, f"is called for order {order}: {kind}")
        submission = Submission(
            number=len(world.history.submissions), provider=name, order=order, at=world.time(), kind=kind,
            sent_by=process.number, is_unclear=True,
        )
        world.history.submissions.append(submission)
        if self._is_cut():
            kind, row = "cut off", SUBMITS["connect_timeout"]
        if row.end in ("refused", "connect_timeout"):
            await asyncio.sleep(_CONNECT_SECONDS if row.end == "connect_timeout" else vendor.plan.latency / 2)
            process.must_live()
            submission.refusal, submission.is_unclear = row.end, False
            return Reply(end=row.end, delay=0.0)
        await process.crosses_or_stays(f"{name} is connected to", is_at_door=True)
        connect_seconds = vendor.plan.latency / 2
        await asyncio.sleep(connect_seconds + (vendor.connects_late() if row.end == "slow_connect" else 0.0))
        await process.crosses_or_stays(f"{name} request leaves")
        if self._is_cut() or not request.extensions["may_send"]():
            submission.refusal, submission.is_unclear = "withheld", False
            return Reply(end="refused", delay=0.0)
        # From here on it is out: nothing that happens to the process can take it back.
        submission.at, submission.has_left = world.time(), True
        if world.server is None:
            self._check_limit(vendor)
        else:
            world.server.promises.leaves(process, name, order)
        return await self._answer(_Call(vendor, submission, kind, row))

    async def _answer(self, call: _Call) -> Reply:
        """Let it arrive, be worked on, be answered: by timers of the vendor's, not of the process."""
        world, process = self._world, self._process
        answered: asyncio.Future[Reply] = world.loop.create_future()
        name, order = call.vendor.plan.name, call.submission.order

        def arrives() -> None:
            reply = call.vendor.submit(call.submission, call.kind, call.row)
            took = f"{call.submission.vendor_task_id} for {call.submission.cents} cents"
            world.say(name, f"order {order}: " + (took if call.submission.cents else "takes nothing"))
            if reply.end != "silent":
                world.later(reply.delay, deliver, reply)

        def deliver(reply: Reply) -> None:
            if not answered.done() and not process.is_dead and not self._is_cut():
                answered.set_result(reply)

        world.later(call.vendor.plan.latency, arrives)
        reply = await answered
        process.crosses(f"{name} answer arrives")
        return reply

    async def _poll(self, vendor: Vendor, request: httpx.Request) -> Reply:
        """A poll changes nothing, so it is one pause. What it was told counts if the process is there."""
        params = httpx.QueryParams(request.extensions.get("query"))
        task_id = params.get("task_id") or request.url.path.rsplit("/", 1)[1]
        kind, reply = vendor.poll(task_id)
        if kind != "fine":
            self._world.say(vendor.plan.name, f"is asked for {task_id}: {kind}")
        await asyncio.sleep(reply.delay)
        if reply.end == "silent" or self._is_cut():
            await self._world.loop.create_future()
        self._process.must_live()
        return reply

    def _is_cut(self) -> bool:
        """Whether this process, alone, cannot reach any vendor."""
        return self._world.time() < self._process.cut_from_vendors_until

    def _check_limit(self, vendor: Vendor) -> None:
        """Never more jobs at once, by the gateway's own rows, than the provider is said to take."""
        most, name = vendor.plan.max_in_flight, vendor.plan.name
        if most is None:
            return
        jobs = self._world.jobs_in_flight(name)
        if jobs > most:
            self._world.history.notes.append(f"unexpected: {jobs} jobs in flight at {name}, of {most}")


class _Call(msgspec.Struct):
    """One submit on its way."""

    vendor: Vendor
    submission: Submission
    kind: str
    row: Row
