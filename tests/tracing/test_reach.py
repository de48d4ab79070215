"""What tracing does not reach: a process without it, a vendor, a start without the extra.

Not held here: what is told (`test_told`, `test_life`).
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from asyncio.subprocess import DEVNULL
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import pytest

from gateway import tracing_settings
from gateway.engine.steps import STEPS
from gateway.seams import UNTRACED, seams_of
from gateway.settings import Settings, SettingsError, parse
from gateway.storage.store import Store
from providers import adapters
from tests.kill.process import KEY, ROOT, launcher, reelgate
from tests.replicas.house import House, house, reached, read
from tests.tracing.receiver import receiver
from tests.tracing.stage import PROMPT, TRACE, TRACEPARENT, called, configuration, started, tracing_to

# Not the whole of it: Litestar asks for some names, to see whether a plugin of its own could work.
OPENTELEMETRY: Final = ("opentelemetry.trace", "opentelemetry.sdk", "opentelemetry.exporter")
# All that a vendor or its storage is ever sent in a head.
HEADERS: Final = frozenset({
    "host", "authorization", "content-type", "content-length", "user-agent", "accept", "accept-encoding",
    "connection", "range", "transfer-encoding",
})
CALLERS: Final = {
    "traceparent": TRACEPARENT, "tracestate": "canary=1", "baggage": "canary=2", "x-request-id": "canary-3",
    "x-canary": "4", "b3": f"{TRACE}-00f067aa0ba902b7-1",
}


async def imported(place: House, folder: Path, more: str) -> set[str]:
    """The modules that a gateway imports in a life, a video's included."""
    path, url = configuration(folder, f"{place.sandbox.url}/highwayapi", more)
    log = folder / "imports"
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *reelgate("serve", "--config", str(path)), cwd=ROOT, stdout=DEVNULL, stderr=stderr,
            env=os.environ | {"REELGATE_SANDBOX_KEY": KEY, "PYTHONPROFILEIMPORTTIME": "1"},
        )
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as client:
        while not await _is_ready(client):
            assert process.returncode is None
        video = read(await client.post("/v1/videos", json={"prompt": PROMPT}, headers=CALLERS))["id"]
        await reached(lambda: place.prompts() == [PROMPT])
        place.finish()
        assert read(await client.get(f"/v1/videos/{video}?wait=30"))["status"] == "completed"
    process.terminate()
    assert await process.wait() == 0
    lines = log.read_text("utf-8").splitlines()
    return {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}


async def _is_ready(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/readyz")).is_success
    except httpx.ConnectError:
        await asyncio.sleep(0)
        return False


@pytest.mark.anyio
@pytest.mark.parametrize("is_on", [False, True])
async def test_nothing_of_it_is_imported_unless_it_is_on(tmp_path: Path, is_on: bool) -> None:
    with receiver() as got:
        async with house(tmp_path, is_shared=False) as place:
            found = await imported(place, tmp_path, tracing_to(got.url) if is_on else "")
    assert "gateway.engine.submit" in found
    theirs = {name for name in found if name.startswith(OPENTELEMETRY)}
    assert (bool(theirs), bool(got.spans)) == (is_on, is_on), theirs


def test_off_it_is_the_same_callables() -> None:
    thing: Any = object()
    seams = seams_of(None)
    assert seams is UNTRACED
    assert {id(seams.post(thing)), id(seams.application(thing)), id(seams.door(thing, thing))} == {id(thing)}
    assert (seams.steps, seams.store) == (STEPS, Store)


def test_it_is_off_where_opentelemetry_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "True")
    assert seams_of(settings("[tracing]").tracing) is UNTRACED


@pytest.mark.anyio
@pytest.mark.parametrize("is_on", [False, True])
async def test_nothing_of_a_caller_reaches_a_vendors_head(tmp_path: Path, is_on: bool) -> None:
    answers = {"POST": b'{"task_id": "t-1"}'}
    with receiver() as got, called(answers) as vendor:
        done = {"task": {"task_id": "t-1", "status": "TASK_STATUS_SUCCEED"},
                "videos": [{"video_url": f"{vendor.url}/file"}]}
        answers["GET"] = msgspec.json.encode(done)
        where = configuration(tmp_path, vendor.url, tracing_to(got.url) if is_on else "")
        async with launcher() as starter, started(starter, where) as (_, client):
            answer = await client.post("/v1/videos", json={"prompt": PROMPT}, headers=CALLERS)
            assert answer.status_code == 202
            await asyncio.to_thread(vendor.wait, 3)
    methods = {(method, path.partition("?")[0] == "/file") for method, path, _ in vendor.made}
    assert methods == {("POST", False), ("GET", False), ("GET", True)}
    for call in vendor.made:
        assert call[2].keys() <= HEADERS, call
        assert "canary" not in repr(call[2])
        assert TRACE not in repr(call), call


def settings(text: str) -> Settings:
    """A configuration that is right but for `text`."""
    rest = '\n[providers.highway]\nadapter = "highwayapi"\napi_key = { env = "VENDOR" }'
    environ = {"VENDOR": "key", "KEY": "Basic secret-canary", "TWO": "secret-canary\nx: y"}
    return parse(text + rest, Path(), adapters(), environ)


def problems(text: str) -> list[str]:
    """What is wrong with it."""
    with pytest.raises(SettingsError) as caught:
        settings(text)
    return [str(problem) for problem in caught.value.problems]


def test_what_the_documents_show_is_taken() -> None:
    (shown,) = re.findall(r"(?ms)^```toml\n(.*?)^```$", (ROOT / "deploy/tracing.md").read_text("utf-8"))
    assert settings(shown).tracing == settings("[tracing]").tracing
    every = re.sub(r"(?m)^# (?=[a-z_]+ = )", "", shown).replace("OTLP_AUTHORIZATION", "KEY")
    found = settings(every.replace("http://", "https://")).tracing
    assert found is not None
    assert list(found.headers) == ["authorization"]


def test_it_is_on_where_the_table_is_there() -> None:
    assert settings("").tracing is None
    found = settings("[tracing]").tracing
    assert found is not None
    assert (found.endpoint, found.service_name, found.sample_ratio) == (
        "http://127.0.0.1:4318", "reelgate", 1.0,
    )


@pytest.mark.parametrize(("text", "where"), [
    ("sample_ratio = 1.5", "tracing.sample_ratio"),
    ('endpoint = "collector:4318"', "tracing.endpoint"),
    ('service_name = ""', "tracing.service_name"),
    ("sample_rate = 1.0", "tracing.sample_rate"),
    ('endpoint = "http://collector:4318"\nheaders = { authorization = { env = "KEY" } }', "tracing.headers"),
    ('headers = { "a b" = { env = "KEY" } }', 'tracing.headers."a b"'),
    ('headers = { authorization = "secret-canary" }', "tracing.headers.authorization"),
    ('headers = { authorization = { env = "TWO" } }', "tracing.headers.authorization"),
])
def test_what_is_wrong_is_said_where(text: str, where: str) -> None:
    (found,) = problems(f"[tracing]\n{text}")
    assert found.startswith(f"{where}: ")
    assert "secret-canary" not in found


def test_without_the_extra_the_start_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing_settings, "find_spec", lambda _: None)
    assert problems("[tracing]") == [f"tracing: {tracing_settings.MISSING}"]
    assert settings("").tracing is None


def test_the_extra_is_looked_for_by_its_own_names() -> None:
    program = (
        "import sys; sys.modules['opentelemetry'] = None;"
        "from gateway.tracing_settings import is_installed; print(is_installed())"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert (told.stdout, tracing_settings.is_installed()) == ("False\n", True)
