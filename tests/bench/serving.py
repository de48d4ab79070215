"""Groups: what a create and a status read cost, next to handlers that do nothing; starts and memory.

Not held here: how a case of requests is measured (`cases`), the floors' handlers (`bare`, `calling`).
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Final

from tests.bench import databases
from tests.bench.cases import (
    CONNECTIONS,
    DATABASE,
    MEMORY,
    PAUSE_SECONDS,
    READY,
    Case,
    Group,
    Requests,
    Sample,
)
from tests.bench.processes import SERVER_CORE, Server, running, tree_cpu_seconds
from tests.bench.stage import BODY, NEVER_POLLED, Stage, Vendor
from tests.bench.wire import HOST, request
from tests.serving import free_port

_NGINX: Final = """daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  upstream vendor {{ server {host}:{vendor}; keepalive 64; }}
  server {{ listen {host}:{port}; location / {{
    proxy_pass http://vendor; proxy_http_version 1.1; proxy_set_header Connection ""; }} }}
}}
"""


def bare_creates(count: int) -> list[bytes]:
    """Creates for a floor, which asks for no key."""
    return [request("POST", "/v1/videos", {"Authorization": "Bearer bench"}, BODY)]


def creating(stage: Stage) -> list[Case]:
    """The full create on both databases, the floors that it stands on, and a proxy that only passes on."""
    vendor = stage.vendor()
    gateway = stage.gateway("sqlite", vendor, *NEVER_POLLED)
    bare, calling = stage.floor("bare"), stage.floor("calling", str(vendor.port))
    served = stage.serve(gateway)
    many = partial(Requests, status=202, alone=stage.sized(40, 10))
    cases = [
        many(name="bare accept", server=bare, requests=bare_creates, count=stage.sized(6_000)).case(),
        many(name="bare accept + vendor call", server=calling, requests=bare_creates,
             count=stage.sized(1_500)).case(),
        many(name="create", server=served, requests=gateway.creates, settle=gateway.settle,
             count=stage.sized(1_500)).case(),
    ]  # fmt: skip
    proxy = _nginx(stage, vendor)
    if proxy is not None:
        cases.append(many(
            name="nginx proxy", server=proxy, status=200, count=stage.sized(10_000),
            requests=lambda count: [request("POST", "/v3/async/floor", None, BODY)],
        ).case())  # fmt: skip
    return [*cases, *_on_postgres(stage)]


def _on_postgres(stage: Stage) -> list[Case]:
    """The same create on PostgreSQL, with a vendor of its own, so that each can be waited for."""
    database = databases.postgres(stage)
    if database is None:
        return []
    vendor = stage.vendor()
    gateway = stage.gateway("postgres", vendor, *NEVER_POLLED, store=database.url())
    served = stage.serve(gateway)
    create = Requests(
        name="create, PostgreSQL", server=served, status=202, requests=gateway.creates,
        settle=gateway.settle, count=stage.sized(1_500), alone=stage.sized(40, 10),
    )

    def run() -> Sample:
        before = tree_cpu_seconds(database.pid)
        sample = create.sample()
        used = tree_cpu_seconds(database.pid) - before
        return sample | {DATABASE: used / (create.count + create.alone) * 1e6}

    return [Case(create.name, run)]


def _nginx(stage: Stage, vendor: Vendor) -> Server | None:
    program = shutil.which("nginx")
    if program is None:
        stage.missing.append("nginx proxy: nginx is not installed (apt-get install nginx-light)")
        return None
    port, config = free_port(), stage.folder / "nginx.conf"
    text = _NGINX.format(folder=stage.folder, host=HOST, vendor=vendor.port, port=port)
    config.write_text(text, "utf-8")
    command = [program, "-c", str(config), "-e", str(stage.folder / "nginx-error.log")]
    log = stage.folder / "nginx.log"
    return stage.stack.enter_context(running(command, port, log, core=SERVER_CORE))


def reading(stage: Stage) -> list[Case]:
    """A status read, one that finds nothing new, one that asks for no key; a handler of as many bytes."""
    gateway = stage.gateway("sqlite", stage.vendor(), *NEVER_POLLED)
    open_one = stage.gateway("open", stage.vendor(), *NEVER_POLLED, "[auth]", 'mode = "off"')
    bare, served, unlocked = stage.floor("bare"), stage.serve(gateway), stage.serve(open_one)
    videos, unowned = gateway.rendering(CONNECTIONS), open_one.rendering(CONNECTIONS)

    def reads(count: int) -> Sequence[bytes]:
        return [request("GET", f"/v1/videos/{video}", gateway.headers) for video in videos]

    def keyless(count: int) -> Sequence[bytes]:
        return [request("GET", f"/v1/videos/{video}", gateway.headers) for video in unowned]

    def conditional(count: int) -> Sequence[bytes]:
        return [request("GET", f"/v1/videos/{video}", gateway.headers | {"If-None-Match": etag})
                for video, etag in videos.items()]

    many = partial(Requests, count=stage.sized(6_000), alone=stage.sized(40, 10))
    return [
        many(name="bare read", server=bare, requests=reads, status=200).case(),
        many(name="status read", server=served, requests=reads, status=200).case(),
        many(name="status read, no keys", server=unlocked, requests=keyless, status=200).case(),
        many(name="status read, 304", server=served, requests=conditional, status=304).case(),
    ]


def starting(stage: Stage) -> list[Case]:
    """Starts of each server, one after the other."""
    vendor = stage.vendor()
    gateway = stage.gateway("sqlite", vendor, *NEVER_POLLED)

    def case(name: str, module: str, *arguments: str) -> Case:
        def run() -> Sample:
            with ExitStack() as brief:
                is_ours = module == "gateway"
                server = (stage.serve(gateway, stack=brief) if is_ours
                          else stage.floor(module, *arguments, stack=brief))
                return {READY: server.ready_seconds, MEMORY: server.memory_mib(),
                        "CPU s": server.cpu_seconds()}
        return Case(name, run)

    return [
        case("reelgate", "gateway"),
        case("bare Litestar", "bare"),
        case("bare Litestar + vendor call", "calling", str(vendor.port)),
    ]


CREATE: Final = Group(
    name="create", title="Creates", open=creating,
    note=f"""{CONNECTIONS} connections that send again when answered; then one connection that pauses
{PAUSE_SECONDS * 1e3:.0f} ms before each request, for the p50. A create ends when the vendor has taken it
and that is committed: its rate and its CPU hold the accept with an Idempotency-Key of its own, all
commits (SQLite, synchronous=FULL), the vendor call on a fresh connection, metrics and log. Its p50 is
that of the 202, which is durable but does not wait for the vendor. The floors are Litestar handlers under
the same server in processes of their own, without key, log, metrics or database; the second makes the
same vendor call over the same transport on a fresh connection. A server that used less than its whole
core was not the limit.""",
)
READ: Final = Group(
    name="read", title="Status reads", open=reading,
    note="""As above, 64 videos that are rendering. A read reads the database; the floor answers a
Struct of about as many bytes from memory.""",
)
STARTS: Final = Group(
    name="starts", title="Start and idle memory", open=starting, is_warmed=False, rounds=3,
    note="""Ready: from the start of the process to its first `GET /readyz` 200; memory and CPU right
then.""",
)
