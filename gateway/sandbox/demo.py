"""`reelgate demo`: the main job on simulated vendors, by real processes and the public API.

Held here: the configuration and the five requests as data, and the run that checks what comes back.
Not held here: the gateway and the simulators, which are started as a user would start them.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import uuid
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from decimal import Decimal
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

import click
import msgspec

from gateway.client.http import TERMINAL, Client, Unavailable, outcome
from gateway.client.output import Board, Json, money, state, table
from gateway.sandbox.probe import probe

_LIMIT_SECONDS = 90  # for everything to be completed; it takes some ten
_START_SECONDS = 20
_STOP_SECONDS = 10
_LOOK_SECONDS = 0.25
_LENGTH_TOLERANCE_SECONDS = 0.25  # a sound track ends on a whole number of its own frames
_LOG_LINES = 30
_KEY: Final = "sandbox-key"
_KEY_VARIABLE: Final = "REELGATE_SANDBOX_KEY"

# Prices are the simulators' own, so that the costs here are those of their ledger.
_CONFIGURATION: Final = """\
[server]
listen = "127.0.0.1:{port}"

[store]
url = "sqlite:reelgate.db"

[files]
url = "file:videos"

[log]
format = "json"

[providers.highway]
adapter = "highwayapi"
base_url = "{sandbox}/highwayapi"
api_key = {{ env = "{variable}" }}
poll_min = "500ms"
poll_max = "1s"

[providers.highway.prices]
"kling-v3.0-std-t2v" = [{{ audio = true, per_second = "0.126" }}, {{ per_second = "0.084" }}]
"kling-v3.0-4k-t2v" = {{ per_second = "0.42" }}
"kling-v3.0-std-i2v" = [{{ audio = true, per_second = "0.126" }}, {{ per_second = "0.084" }}]

[providers.myrouter]
adapter = "myrouter"
base_url = "{sandbox}/myrouter"
api_key = {{ env = "{variable}" }}
poll_min = "500ms"
poll_max = "1s"

[providers.myrouter.prices]
"kling-v3.0-pro-t2v" = [{{ audio = true, per_second = "0.168" }}, {{ per_second = "0.112" }}]

[providers.unified]
adapter = "unified"
base_url = "{sandbox}/unified"
api_key = {{ env = "{variable}" }}
poll_min = "500ms"
poll_max = "1s"

[providers.unified.prices]
"kling-v3-text-to-video" = [{{ audio = true, per_second = "0.126" }}, {{ per_second = "0.084" }}]
"""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One request, and what must come back: the vendor's slug, `seconds`, size in pixels, sound."""

    provider: str
    slug: str
    body: Json
    seconds: int
    size: tuple[int, int]
    audio: bool = False

    @property
    def name(self) -> str:
        """What it is called on the way."""
        return f"{self.provider} {self.slug}"


class DemoError(click.ClickException):
    """The demo did not do what it promises."""


def frame(width: int, height: int) -> str:
    """A first frame of that many pixels, an even gradient, as a PNG in a data URI."""
    row = b"\0" + b"".join(bytes((40 + 160 * x // width, 90, 170 - 120 * x // width)) for x in range(width))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(row * height)), chunk(b"IEND", b""))
    png = b"\x89PNG\r\n\x1a\n" + b"".join(parts)
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def jobs() -> tuple[Job, ...]:
    """One request for each of the five endpoints of the vendors' pages."""
    return (
        Job(provider="highway", slug="kling-v3.0-std-t2v", seconds=5, size=(1280, 720),
            body={"prompt": "A red fox crosses a snowy field", "negative_prompt": "blur", "duration": 5}),
        Job(provider="highway", slug="kling-v3.0-4k-t2v", seconds=3, size=(2160, 3840),
            body={"prompt": "A waterfall in the rain forest, seen from below", "resolution": "4k",
                  "aspect_ratio": "9:16", "duration": 3}),
        Job(provider="highway", slug="kling-v3.0-std-i2v", seconds=4, size=(1280, 720),
            body={"prompt": "The colours begin to flow", "image": frame(640, 360), "duration": 4}),
        Job(provider="myrouter", slug="kling-v3.0-pro-t2v", seconds=5, size=(1080, 1080), audio=True,
            body={"shots": [{"prompt": "A kettle on a stove", "duration": 2},
                            {"prompt": "It begins to whistle", "duration": 3}],
                  "resolution": "1080p", "aspect_ratio": "1:1", "audio": True}),
        Job(provider="unified", slug="kling-v3-text-to-video", seconds=5, size=(1280, 720), audio=True,
            body={"prompt": "A woman says <<<voice_1>>> welcome", "duration": 5, "audio": True,
                  "voice_ids": ["voice-one"]}),
    )  # fmt: skip


def run(out: Path, *, keep: bool) -> None:
    """Do it all, and leave nothing running. Raises DemoError for what went wrong."""
    with ExitStack() as stack:
        stack.enter_context(_signals_raise())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="reelgate-demo-")))
        log = folder / "gateway.log"
        try:
            _run(stack, folder, out, keep=keep)
        except click.ClickException as error:
            raise DemoError(f"{error.message}{_tail(log)}") from error


def _run(stack: ExitStack, folder: Path, out: Path, *, keep: bool) -> None:
    _say("Starting the vendors' simulators and the gateway.")
    options = ["--port", "0", "--render-seconds", "2"]
    vendors = stack.enter_context(_process(["sandbox", *options], folder, "sandbox"))
    sandbox_url = _first_line(vendors, folder / "sandbox.log")
    port = _free_port()
    url, config = f"http://127.0.0.1:{port}", folder / "reelgate.toml"
    text = _CONFIGURATION.format(port=port, sandbox=sandbox_url, variable=_KEY_VARIABLE)
    config.write_text(text, "utf-8")
    gateway = stack.enter_context(_process(["serve", "--config", str(config)], folder, "gateway"))
    sandbox = stack.enter_context(Client(sandbox_url, None))
    key = _ready(stack, gateway, url, config)
    client = stack.enter_context(Client(url, key))
    _say(f"Ready: {url}. Ordering a video from each of the five vendor endpoints.")
    wanted = jobs()
    done = _follow(client, wanted)
    rows = [_collected(client, job, video, out) for job, video in zip(wanted, done, strict=True)]
    click.echo(table(["PROVIDER", "OFFERING", "VENDOR TASK", "SECONDS", "BYTES", "COST", "FILE"], rows))
    _check_ledger(sandbox.call("GET", "/admin/ledger"), done)
    if keep:
        _say(f"\nIt goes on until Ctrl-C.\n\n  API    {url}\n  docs   {url}/docs\n  key    {key}\n")
        _say(f"  REELGATE_URL={url} REELGATE_KEY={key} reelgate videos create 'a red fox' --watch\n")
        with suppress(KeyboardInterrupt):
            gateway.wait()
            raise DemoError("The gateway ended by itself.")


def _say(text: str) -> None:
    click.echo(text, err=True)


@contextmanager
def _process(arguments: Sequence[str], folder: Path, name: str) -> Iterator[subprocess.Popen[str]]:
    """A verb of ours as its own process, its stderr in NAME.log; ended on every way out.

    In a session of its own: Ctrl-C reaches the demo alone, which ends them in the right order.
    """
    environ = os.environ | {_KEY_VARIABLE: _KEY}
    command = [sys.executable, "-m", "gateway", *arguments]
    with (folder / f"{name}.log").open("w", encoding="utf-8") as log:
        out = subprocess.PIPE if name == "sandbox" else log
        process = subprocess.Popen(  # noqa: S603 - our own verbs
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=log, env=environ, text=True,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


@contextmanager
def _signals_raise() -> Iterator[None]:
    """SIGTERM and SIGHUP leave by an exception, so that nothing of ours is left running."""

    def leave(number: int, _frame: FrameType | None) -> NoReturn:
        signal.signal(number, signal.SIG_IGN)
        sys.exit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _first_line(process: subprocess.Popen[str], log: Path) -> str:
    """The URL that the sandbox prints once it listens."""
    line = process.stdout.readline().strip() if process.stdout is not None else ""
    if not line.startswith("http"):
        raise DemoError(f"The simulators did not start.{_tail(log)}")
    return line


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def _ready(stack: ExitStack, gateway: subprocess.Popen[str], url: str, config: Path) -> str:
    """Wait for the gateway, then make an API key beside it, as an operator would; returns the key."""
    client = stack.enter_context(Client(url, None))
    end = time.monotonic() + _START_SECONDS
    while True:
        try:
            client.call("GET", "/v1/version")
            break
        except Unavailable as error:
            if gateway.poll() is not None:
                raise DemoError("The gateway did not start.") from error
            if time.monotonic() > end:
                raise DemoError(f"The gateway was not ready within {_START_SECONDS} s.") from error
        time.sleep(_LOOK_SECONDS / 5)
    command = [sys.executable, "-m", "gateway", "keys", "create", "demo", "--json", "--config", str(config)]
    made = subprocess.run(  # noqa: S603 - our own verb
        command, env=os.environ | {_KEY_VARIABLE: _KEY}, capture_output=True, text=True, check=False,
        timeout=_START_SECONDS,
    )
    if made.returncode:
        raise DemoError(f"No API key could be made: {made.stderr.strip()}")
    return str(json.loads(made.stdout)["key"])


def _follow(client: Client, wanted: Sequence[Job]) -> list[Json]:
    """Order them all, and watch until each is completed."""
    videos: dict[str, tuple[Job, Json]] = {}
    end = time.monotonic() + _LIMIT_SECONDS
    with Board() as board:
        for job in wanted:
            video = client.create(job.body | {"provider": job.provider}, str(uuid.uuid4()))
            videos[video["id"]] = (job, video)
        while True:
            for video_id, (job, _) in videos.items():
                video = client.video(video_id)
                videos[video_id] = (job, video)
                board.show(job.name, state(video), video["progress"])
            if all(video["status"] in TERMINAL for _, video in videos.values()):
                break
            if time.monotonic() > end:
                raise DemoError(f"Not all videos were completed within {_LIMIT_SECONDS} s.")
            time.sleep(_LOOK_SECONDS)
    for job, video in videos.values():
        if outcome(video):
            error = video["error"] or {}
            raise DemoError(f"{job.name} {video['status']}: {error.get('code')}: {error.get('message')}")
    return [video for _, video in videos.values()]


def _collected(client: Client, job: Job, video: Json, out: Path) -> list[object]:
    """Download and probe one video; its row of the table. Raises DemoError where it is not as asked."""
    file = out / f"{job.provider}-{job.slug}.mp4"
    try:
        out.mkdir(parents=True, exist_ok=True)
        size = client.download(video["id"], file, lambda _done, _total: None)
        clip = probe(file)
    except (OSError, ValueError) as error:
        raise DemoError(f"{file}: {error}") from error
    found = {"provider": video["provider"], "offering": video["offering"], "sound": clip.has_audio,
             "size": (clip.width, clip.height)}  # fmt: skip
    asked = {"provider": job.provider, "offering": job.slug, "sound": job.audio, "size": job.size}
    wrong = [f"{name} is {found[name]}, not {asked[name]}" for name in asked if found[name] != asked[name]]
    if abs(clip.duration_seconds - job.seconds) > _LENGTH_TOLERANCE_SECONDS:
        wrong.append(f"it lasts {clip.duration_seconds:g} s, not {job.seconds} s")
    if wrong:
        raise DemoError(f"{file}: {'; '.join(wrong)}.")
    seconds = f"{clip.duration_seconds:.2f}"
    return [job.provider, job.slug, video["vendor_task_id"], seconds, size, money(video), str(file)]


def _check_ledger(ledger: Mapping[str, object], done: Sequence[Json]) -> None:
    """Every video was bought once and nothing else was, for the money that the gateway expected."""
    expected = sum((Decimal(video["cost"]["amount"]) for video in done if video["cost"]), Decimal(0))
    count, total = ledger["count"], Decimal(str(ledger["total"]))
    if count != len(done) or total != expected:
        message = f"The vendors' ledger has {count} charges of {total} USD, not {len(done)} of {expected}."
        raise DemoError(message)
    _say(f"The vendors' ledger has exactly {count} charges, {total} USD in all.")


def _tail(log: Path) -> str:
    """The end of a log, as an addition to a message; nothing where there is none."""
    lines = log.read_text("utf-8", "replace").splitlines()[-_LOG_LINES:] if log.exists() else []
    return "".join(f"\n  {line}" for line in [f"\nThe end of {log.name}:", *lines]) if lines else ""
