"""The simulators' own routes under `/admin`, which need no key: money, tasks, faults.

Not held here: the vendors' routes.

GET /admin/health      `{"status": "ok"}`
GET /admin/ledger      `{"entries": [...], "count": n, "total": "amount"}`; `?vendor=` narrows it
GET /admin/tasks       `{"tasks": [...]}` with the state of each as it stands now
GET /admin/faults      `{"faults": [...], "armed": [...]}`: all there are, and those waiting to strike
POST /admin/faults     `{"fault": NAME, "vendor": "*", "phase": P, "times": 1, "args": {}}` arms one;
                       `times` may be "always"; `"lasts": seconds` makes it a window; as in a prompt
/admin/ports           faults below HTTP; see `ports`
/admin/attacker        an origin that belongs to no vendor; see `attacker`
DELETE /admin/faults   disarms all of them
POST /admin/reset      forgets tasks, money and faults
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Literal, TypeAlias

import msgspec

from gateway.sandbox import catalogue, faults
from gateway.sandbox.attacker import Attacker
from gateway.sandbox.ports import Ports, PortState
from gateway.sandbox.renders import Task, World
from gateway.sandbox.wire import Answer, Request


class ArmRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `POST /admin/faults` takes.

    `times` is how many calls of that vendor and phase it strikes, one where nothing is said. `lasts` is in
    seconds from its first strike on, and takes the place of a number.
    """

    fault: str
    vendor: str = "*"
    phase: str | None = None
    times: int | Literal["always"] | None = None
    lasts: float | None = None
    args: dict[str, str | int | float] = {}


class PortRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `POST /admin/ports` takes: a fault below HTTP or `none`, and the port to change, if any."""

    fault: str
    port: int | None = None


def answer(request: Request, world: World) -> Answer:
    """Answer one request to `/admin`."""
    route = _ROUTES.get((request.method, request.path))
    if route is None:
        return _json(404, {"error": f"{request.method} {request.path[:100]} is not known"})
    return route(request, world)


def _health(_request: Request, _world: World) -> Answer:
    return _json(200, {"status": "ok"})


def _ledger(request: Request, world: World) -> Answer:
    vendor = request.query.get("vendor")
    entries = [entry for entry in world.ledger if vendor in {None, entry.vendor}]
    total = sum((Decimal(entry.amount) for entry in entries), Decimal(0))
    return _json(200, {"entries": entries, "count": len(entries), "total": str(total)})


def _tasks(_request: Request, world: World) -> Answer:
    return _json(200, {"tasks": [_told(task, world) for task in world.tasks.values()]})


def _told(task: Task, world: World) -> dict[str, object]:
    view = world.view(task)
    width, height = task.size
    return {
        "vendor": task.vendor,
        "slug": task.order.slug,
        "vendor_task_id": task.id,
        "state": view.state,
        "progress": view.progress,
        "created_at": task.created_at,
        "render_seconds": task.render_seconds,
        "clip": {"width": width, "height": height, "seconds": task.order.duration, "audio": task.order.audio},
        "prompt": task.order.prompt,
        "faults": task.faults,
    }


def _list_faults(_request: Request, world: World) -> Answer:
    return _json(200, {"faults": catalogue.listed(), "armed": world.armed})


def _arm(request: Request, world: World) -> Answer:
    try:
        wanted = msgspec.json.decode(request.body, type=ArmRequest)
        armed = arm(world, wanted)
    except (msgspec.DecodeError, ValueError) as error:
        return _json(400, {"error": str(error)})
    return _json(200, {"armed": armed})


def arm(world: World, wanted: ArmRequest) -> faults.Armed:
    """Arm a fault for the next calls. Raises ValueError for what does not exist."""
    told = {"phase": wanted.phase, "lasts": wanted.lasts, "times": wanted.times}
    more = {name: value for name, value in told.items() if value is not None}
    armed = faults.arm(wanted.fault, {**wanted.args, **more, "vendor": wanted.vendor})
    if wanted.times is None and armed.lasts is None:
        armed.left = 1
    world.armed.append(armed)
    return armed


async def answer_ports(request: Request, ports: Ports) -> Answer:
    """Answer one request to `/admin/ports`."""
    if request.method == "DELETE":
        ports.close()
        return _json(200, {"status": "ok"})
    if request.method != "POST":
        return _json(405, {"error": "POST or DELETE"})
    try:
        wanted = msgspec.json.decode(request.body, type=PortRequest)
        port = await ports.set(_state(wanted.fault), wanted.port)
    except (msgspec.DecodeError, ValueError, LookupError, OSError) as error:
        return _json(400, {"error": str(error)})
    return _json(200, {"port": port.number, "url": port.url})


async def answer_attacker(request: Request, attacker: Attacker) -> Answer:
    """Answer one request to `/admin/attacker`."""
    if request.method not in {"GET", "POST"}:
        return _json(405, {"error": "GET or POST"})
    if request.method == "POST":
        try:
            await attacker.open()
        except OSError as error:
            return _json(400, {"error": str(error)})
    return _json(200, attacker.report())


def _state(name: str) -> PortState:
    """What becomes of a port by a fault of that name. Raises ValueError for one that is not below HTTP."""
    if name == "none":
        return "open"
    fault = catalogue.FAULTS.get(name)
    if fault is None or fault.port is None:
        raise ValueError(f"no fault below HTTP is called {name!r}")
    return fault.port


def _disarm(_request: Request, world: World) -> Answer:
    world.armed.clear()
    return _json(200, {"armed": []})


def _reset(_request: Request, world: World) -> Answer:
    world.reset()
    return _json(200, {"status": "ok"})


_Route: TypeAlias = Callable[[Request, World], Answer]
_ROUTES: dict[tuple[str, str], _Route] = {
    ("GET", "/admin/health"): _health,
    ("GET", "/admin/ledger"): _ledger,
    ("GET", "/admin/tasks"): _tasks,
    ("GET", "/admin/faults"): _list_faults,
    ("POST", "/admin/faults"): _arm,
    ("DELETE", "/admin/faults"): _disarm,
    ("POST", "/admin/reset"): _reset,
}


def _json(status: int, body: object) -> Answer:
    headers = (("content-type", "application/json"),)
    return Answer(status=status, headers=headers, body=msgspec.json.encode(body))
