"""A sandbox on a free port, on virtual time. Held here: the clock, the sandbox, and a client with its key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from gateway.sandbox.server import Sandbox, SandboxSettings, running

SETTINGS = SandboxSettings(port=0, render_seconds=100, render_spread=0, seed=7)


class VirtualClock:
    """Time that passes only when a test or a sleeping fault says so."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
async def sandbox(clock: VirtualClock) -> AsyncIterator[Sandbox]:
    async with running(SETTINGS, clock=clock) as started:
        yield started


@pytest.fixture
async def client(sandbox: Sandbox) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"authorization": f"Bearer {SETTINGS.key}"}
    async with httpx.AsyncClient(base_url=sandbox.url, headers=headers, trust_env=False) as opened:
        yield opened
