"""The peers' group: LiteLLM's proxy and ours before the same vendor, measured in turn. `make bench-peers`.

The newest `litellm[proxy]` that can be installed goes into an environment of its own, which is no part of the
project: nothing of it is imported here. LiteLLM stores nothing and calls its vendor on kept connections; a
create waits for the vendor, and a status read asks it. Not held here: our own figures alone (`serving`).
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from tests.bench.cases import CONNECTIONS, MEMORY, READY, Case, Group, Requests, Sample
from tests.bench.processes import ROOT, SERVER_CORE, Server, running
from tests.bench.stage import NEVER_POLLED, Seen, Stage, Vendor
from tests.bench.wire import HOST, exchange, request
from tests.serving import free_port

_HOME: Final = ROOT / ".venv/peers"
_PACKAGE: Final = "litellm[proxy]"
_KEY: Final = "sk-bench"
_CONFIGURATION: Final = """model_list:
  - model_name: sora-2
    litellm_params: {{model: openai/sora-2, api_base: "http://{host}:{vendor}/v1", api_key: sk-vendor}}
general_settings: {{master_key: {key}}}
litellm_settings: {{telemetry: false}}
"""
# It would fetch a list of prices, and tell home; and ask OpenAI itself where it has lost track of `api_base`.
_ENVIRON: Final = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False", "LITELLM_LOG": "ERROR",
    "NO_PROXY": "*", "OPENAI_API_KEY": "sk-vendor",
}
_HEADERS: Final = {"Authorization": f"Bearer {_KEY}"}
_BODY: Final = msgspec.json.encode({
    "model": "sora-2", "prompt": "A red fox crosses a snowy field at dawn", "seconds": "8",
    "size": "1280x720",
})
# The server that it comes with by default, and the one that serves us.
_SERVERS: Final = {"LiteLLM": (), "LiteLLM with granian": ("--run_granian",)}


def install() -> str:
    """Install or renew it; the version. Raises CalledProcessError when it cannot be had."""
    python = _HOME / "bin/python"
    uv = str(Path(sys.executable).with_name("uv"))
    if not python.exists():
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(_HOME)], check=True)
    renew = [uv, "pip", "install", "--quiet", "--upgrade", "--python", str(python), _PACKAGE]
    subprocess.run(renew, check=True)
    ask = "from importlib.metadata import version; print(version('litellm'))"
    return subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True).stdout.strip()


def comparing(stage: Stage) -> list[Case]:
    """Create and status read, ours and theirs. Ends the program with 1 where LiteLLM cannot be installed."""
    try:
        found = install()
    except (OSError, subprocess.CalledProcessError) as error:
        stage.say(f"LiteLLM cannot be installed here, so there is nothing to compare with: {error}")
        sys.exit(1)
    stage.say(f"LiteLLM {found}")
    stage.notes.append(f"LiteLLM {found}")
    vendor = stage.vendor()
    gateway = stage.gateway("ours", vendor, *NEVER_POLLED)
    served = stage.serve(gateway)
    videos = gateway.rendering(CONNECTIONS)
    reads = [request("GET", f"/v1/videos/{video}", gateway.headers) for video in videos]
    creating = partial(Requests, alone=stage.sized(60, 10))
    creates = [creating(
        name="reelgate create", server=served, status=202, requests=gateway.creates, settle=gateway.settle,
        count=stage.sized(1_500),
    )]
    reading = [Requests(
        name="reelgate status read", server=served, status=200, requests=partial(_same, reads),
        count=stage.sized(4_000), alone=stage.sized(60, 10),
    )]
    for name, options in _SERVERS.items():
        server = _litellm(stage, vendor, name, options)
        ids = _made(server)
        asked = [request("GET", f"/v1/videos/{video}", _HEADERS) for video in ids]
        creates.append(creating(
            name=f"{name} create", server=server, status=200, count=stage.sized(400),
            requests=partial(_same, [request("POST", "/v1/videos", _HEADERS, _BODY)]),
        ))
        reading.append(creating(
            name=f"{name} status read", server=server, status=200, count=stage.sized(400),
            requests=partial(_same, asked),
        ))
    return [_with_memory(case) for case in (*creates, *reading)]


def _same(requests: Sequence[bytes], count: int) -> Sequence[bytes]:
    """However many are sent."""
    return requests


def _with_memory(requests: Requests) -> Case:
    def run() -> Sample:
        sample = requests.sample()
        return sample | {MEMORY: requests.server.memory_mib(), READY: requests.server.ready_seconds}

    return Case(requests.name, run)


def _litellm(stage: Stage, vendor: Vendor, name: str, options: tuple[str, ...]) -> Server:
    folder, port = stage.folder / name.replace(" ", "-"), free_port()
    folder.mkdir()
    config = folder / "config.yaml"
    config.write_text(_CONFIGURATION.format(host=HOST, vendor=vendor.port, key=_KEY), "utf-8")
    where = ["--host", HOST, "--port", str(port)]
    command = [str(_HOME / "bin/litellm"), "--config", str(config), *where, *options]
    environ = _ENVIRON | {"HOME": str(folder), "OPENAI_BASE_URL": f"http://{HOST}:{vendor.port}/v1"}
    started = running(command, port, folder / "log", core=SERVER_CORE, environ=environ,
                      ready="/health/liveliness")
    return stage.stack.enter_context(started)


def _made(server: Server) -> list[str]:
    """Videos that it knows."""
    headers = _HEADERS | {"Content-Type": "application/json"}
    answers = [exchange(server.port, "POST", "/v1/videos", headers, _BODY) for _ in range(CONNECTIONS)]
    return [msgspec.json.decode(answer.body, type=Seen).id for answer in answers]


PEERS: Final = Group(
    name="peers", title="Beside LiteLLM", open=comparing, rounds=5,
    note="""Before the same vendor, in turn. Ours: `POST /v1/videos` with an Idempotency-Key to the
commit of the vendor's answer, SQLite with synchronous=FULL, a fresh connection for the paid call; a
status read reads the database. LiteLLM's proxy with one worker, no database and its defaults:
`POST /v1/videos` is passed on and waited for on a kept connection; a status read asks the vendor. p50 of
ours is that of the 202.""",
)
