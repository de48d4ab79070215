"""The world behind the vendors: tasks that render by the clock, the money ledger, and links that expire.

Not held here: any vendor's words (`protocols`), and the clips themselves (`media`).
"""

from __future__ import annotations

import hashlib
import hmac
from decimal import Decimal
from random import Random
from typing import Literal, TypeAlias

import msgspec

from gateway.sandbox import faults
from gateway.sandbox.distortions import View
from gateway.sandbox.settings import Clock, SandboxSettings

_QUEUED_SHARE = 0.15  # of a render's time is spent in the vendor's queue

# US dollars for a second of video, silent and with sound: the sandbox's own, of a size that vendors publish.
_PRICES: dict[str, tuple[Decimal, Decimal]] = {
    "720p": (Decimal("0.084"), Decimal("0.126")),
    "1080p": (Decimal("0.112"), Decimal("0.168")),
    "4k": (Decimal("0.42"), Decimal("0.42")),
}
_SHORT_SIDES = {"720p": 720, "1080p": 1080, "4k": 2160}

LinkState: TypeAlias = Literal["good", "expired", "forged"]


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What an accepted request buys. `frame` is width to height as any two numbers; `duration` in seconds."""

    slug: str
    prompt: str
    resolution: str
    frame: tuple[int, int]
    duration: int
    audio: bool


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One accepted request. `token` names its file; `faults` are the prompt's, used up as it is polled."""

    id: str
    vendor: str
    order: Order
    words: str
    token: str
    created_at: float
    render_seconds: float
    faults: list[faults.Armed]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, both even: the tier is the short side."""
        short, (width, height) = _SHORT_SIDES[self.order.resolution], self.order.frame
        long = round(short * max(width, height) / min(width, height) / 2) * 2
        return (long, short) if width >= height else (short, long)


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One charge: an accepted create, whatever became of its answer. `at` in Unix seconds."""

    vendor: str
    slug: str
    vendor_task_id: str
    amount: str
    currency: str
    prompt: str
    at: float
    client_reference: str | None


class World:
    """All tasks, money and armed faults of one sandbox, in memory."""

    def __init__(self, settings: SandboxSettings, clock: Clock, random: Random) -> None:
        self.settings, self.clock, self.random = settings, clock, random
        self.tasks: dict[tuple[str, str], Task] = {}
        self.files: dict[tuple[str, str], Task] = {}
        self.ledger: list[Entry] = []
        self.armed: list[faults.Armed] = []
        self._counted: dict[tuple[str, str], list[faults.Armed]] = {}
        self._secret = random.randbytes(32)

    def reset(self) -> None:
        """Forget every task, charge and armed fault. Links of before lead nowhere."""
        for kept in (self.tasks, self.files, self.ledger, self.armed, self._counted):
            kept.clear()

    def accept(self, vendor: str, task_id: str, order: Order, wishes: faults.Directives) -> Task:
        """Begin to render, and charge."""
        seconds = self.settings.render_seconds * self.random.lognormvariate(0, self.settings.render_spread)
        task = Task(
            id=task_id,
            vendor=vendor,
            order=order,
            words=wishes.words if self.settings.draw_words else "",
            token=self.random.randbytes(16).hex(),
            created_at=self.clock.time(),
            render_seconds=seconds,
            faults=wishes.faults,
        )
        self.tasks[vendor, task.id] = self.files[vendor, task.token] = task
        self.ledger.append(
            Entry(
                vendor=vendor,
                slug=order.slug,
                vendor_task_id=task.id,
                amount=str(_PRICES[order.resolution][order.audio] * order.duration),
                currency="USD",
                prompt=order.prompt,
                at=task.created_at,
                client_reference=wishes.reference,
            ),
        )
        return task

    def submit_faults(self, vendor: str, prompt: str, wishes: faults.Directives) -> list[faults.Armed]:
        """What strikes a submit of that prompt. Those with a number of times are used up across submits."""
        fresh = [one for one in wishes.faults if one.strikes_at("submit")]
        if all(one.left is None and one.lasts is None for one in fresh):
            return fresh
        return self._counted.setdefault((vendor, prompt), fresh)

    def previous_id(self, vendor: str) -> str | None:
        """The id of that vendor's latest task."""
        return next((entry.vendor_task_id for entry in reversed(self.ledger) if entry.vendor == vendor), None)

    def view(self, task: Task) -> View:
        """The task as it stands now."""
        elapsed = self.clock.time() - task.created_at
        left = max(0.0, task.render_seconds - elapsed)
        if left == 0:
            return View(state="succeeded", progress=100, eta_seconds=0, videos=1)
        queued = task.render_seconds * _QUEUED_SHARE
        if elapsed < queued:
            return View(state="queued", progress=0, eta_seconds=left)
        done = (elapsed - queued) / (task.render_seconds - queued)
        return View(state="processing", progress=int(done * 100), eta_seconds=left)

    def link(self, task: Task, seconds: float, *, dead: bool = False) -> str:
        """Path and query of the task's file, signed and good for that many seconds from now."""
        expires = f"{self.clock.time() + seconds:.3f}"
        token = "0" * len(task.token) if dead else task.token
        path = f"/files/{task.vendor}/{token}.mp4"
        return f"{path}?expires={expires}&signature={self._sign(path, expires)}"

    def link_state(self, path: str, expires: str, signature: str) -> LinkState:
        """Whether such a link was ours and is still good."""
        if not hmac.compare_digest(self._sign(path, expires).encode(), signature.encode()):
            return "forged"
        return "good" if self.clock.time() < float(expires) else "expired"

    def _sign(self, path: str, expires: str) -> str:
        return hmac.new(self._secret, f"{path} {expires}".encode(), hashlib.sha256).hexdigest()
