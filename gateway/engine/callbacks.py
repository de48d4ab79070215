"""Vendors that call back: a reason to poll the job now, and never more than that.

What a call says is not believed; the poll that follows finds out. A call that came before, speaks of nothing
we follow, or comes before our own submit was answered, changes nothing: the plan of polls goes on. Not held
here: the route (`gateway.api.callbacks`), signatures and words of a vendor (its adapter).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

from gateway.engine.loop import Engine
from gateway.engine.provider import Provider
from gateway.settings import ProviderSettings
from gateway.storage import news
from providers.spec import Adapter, TakesCallbacks

Taken: TypeAlias = Literal["polled", "passed_on", "repeated", "ignored"]

SEEN_MAX: Final = 4_096  # calls that are remembered, to know them again
_FOLLOWED: Final = frozenset({"rendering", "submission_unknown"})


def token_of(entry: ProviderSettings) -> str:
    """What nobody can guess of a provider's callback URL: alike at every replica, another with every key."""
    key = entry.api_key.reveal().encode("utf-8", "surrogatepass")
    return hmac.new(key, f"callback {entry.name}".encode(), hashlib.sha256).hexdigest()


def introduce(adapter: Adapter, entry: ProviderSettings, public_url: str | None) -> None:
    """Tell an adapter whose vendor calls back where to: as far as we can be reached at all."""
    if public_url is not None and isinstance(adapter, TakesCallbacks):
        adapter.call_back_at(f"{public_url}/v1/callbacks/{entry.name}/{token_of(entry)}")


def receiver(provider: Provider | None, token: str) -> TakesCallbacks | None:
    """The adapter that reads a call with this token; None when there is none, or the token is wrong."""
    if provider is None or not isinstance(provider.adapter, TakesCallbacks):
        return None
    given, ours = token.encode("utf-8", "surrogatepass"), token_of(provider.settings).encode()
    return provider.adapter if hmac.compare_digest(given, ours) else None


class Callbacks:
    """Takes calls for all replicas: what another owns is passed on to it, and may be lost on the way."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._store = engine, engine.store
        self._seen: dict[bytes, None] = {}
        if self._store.is_shared:
            self._store.hear(self._heard)

    async def take(
        self, provider: Provider, reader: TakesCallbacks, headers: Mapping[str, str], body: bytes
    ) -> Taken:
        """Have the job polled that a call speaks of. Raises StorageError; then nothing was remembered."""
        job = reader.read_callback(headers, body)
        if job is None:
            return "ignored"
        seen = hashlib.sha256(provider.name.encode() + b"\0" + body).digest()
        if seen in self._seen:
            return "repeated"
        found = await self._store.task_of_job(provider.name, job)
        if found is None:
            return "ignored"  # perhaps it is known in a moment, so it is not remembered
        taken = await self._take(*found)
        if taken != "ignored":
            self._remember(seen)
        return taken

    async def _take(self, task_id: str, owner: str) -> Taken:
        if owner == self._engine.replica:
            return "polled" if self._poll(task_id) else "ignored"
        if not self._store.is_shared:
            return "ignored"
        await self._store.pass_on(news.of_callback(task_id, owner))
        return "passed_on"

    def _remember(self, seen: bytes) -> None:
        if len(self._seen) >= SEEN_MAX:
            del self._seen[next(iter(self._seen))]
        self._seen[seen] = None

    def _heard(self, text: str | None) -> None:
        told = None if text is None else news.read(text)
        if isinstance(told, news.CalledBack) and told.replica == self._engine.replica:
            self._poll(told.id)

    def _poll(self, task_id: str) -> bool:
        """Make a job's poll due, no sooner after the last than any two polls are apart."""
        engine, task = self._engine, self._engine.tasks.get(task_id)
        watch = engine.watches.get(task_id)
        provider = None if task is None else engine.fleet.providers.get(task.provider or "")
        if task is None or watch is None or provider is None or task.state not in _FOLLOWED:
            return False
        at = max(engine.now(), (watch.polled_at or 0.0) + provider.bounds.min_seconds)
        if watch.due is None or at < watch.due:
            engine.due_at(task_id, at)
        return True
