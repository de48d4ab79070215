"""How often a caller may ask: by its key, and by its team together. Counted here, and told in every answer.

The fields are those of draft-ietf-httpapi-ratelimit-headers-10: `RateLimit-Policy` says what is allowed,
`RateLimit` what is left of it. Of several replicas each allows its even share, so that together they keep the
limit without a word between them. Not held here: who has which limit (`auth`), how a minute is counted
(`gateway.core.windows`), limits of videos and of money.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

from litestar.types import Scope

from gateway.api.auth import Caller
from gateway.core.windows import KEPT_SECONDS, WINDOW_SECONDS, Window
from gateway.errors import Problem

Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]

WINDOWS_MAX: Final = 10_000  # keys and teams that are counted at once, each in a few kilobytes at most
SWEEP_SECONDS: Final = 1.0  # between two looks for those that need not be counted any more
STATE: Final = "rate"  # under which a request has its headers once it was counted


# Whose limit it is, as answers name it; under what it is counted; how much it is.
_Policy: TypeAlias = tuple[str, str, int]


class Rates:
    """The requests of the last minute of every key and team that has a limit.

    `now` is a monotonic clock in seconds; `replicas` says how many living ones answer callers.
    """

    def __init__(self, now: Callable[[], float], replicas: Callable[[], int]) -> None:
        self._now, self._replicas = now, replicas
        self._windows: dict[str, Window] = {}
        self._swept_at = 0.0

    def admit(self, caller: Caller) -> Headers:
        """Count one request; what its answer has to say of it, nothing for a caller without a limit.

        Raises Problem rate_limited, with the same headers, when the key or its team had its requests.
        """
        of_key = caller.grant.limits.requests_per_minute
        of_team = caller.grant.team_limits.requests_per_minute
        if of_key is None and of_team is None:
            return ()
        policies: list[_Policy] = [] if of_key is None else [("key", caller.id, of_key)]
        if of_team is not None:
            policies.append(("team", f"team:{caller.team}", of_team))
        return self._counted(policies)

    def _counted(self, policies: list[_Policy]) -> Headers:
        now, replicas = self._now(), max(1, self._replicas())
        found = [(self._window(account, now), max(1, most // replicas)) for _, account, most in policies]
        spent = [index for index, (window, share) in enumerate(found) if window.used(now) >= share]
        if not spent:
            for window, _ in found:
                window.take(now)
        next_in = [window.next_seconds(now) for window, _ in found]
        allowed = ", ".join([f'"{name}";q={most};w={WINDOW_SECONDS}' for name, _, most in policies])
        told = ", ".join([
            f'"{policy[0]}";r={max(0, share - window.count)};t={seconds}'
            for policy, (window, share), seconds in zip(policies, found, next_in, strict=True)
        ])
        if not spent:
            return ((b"ratelimit-policy", allowed.encode()), (b"ratelimit", told.encode()))
        headers = {
            "RateLimit-Policy": allowed, "RateLimit": told,
            "Retry-After": str(max(next_in[index] for index in spent)),
        }
        raise Problem("rate_limited", _sentence(policies[spent[0]], replicas), headers=headers)

    def _window(self, account: str, now: float) -> Window:
        window = self._windows.get(account)
        if window is None:
            if len(self._windows) >= WINDOWS_MAX:
                self._make_room(now)
            window = self._windows[account] = Window()
        return window

    def _make_room(self, now: float) -> None:
        """Forget those that did not come for a minute, or else the one that is counted for longest."""
        if now >= self._swept_at + SWEEP_SECONDS:
            self._swept_at = now
            idle = [account for account, window in self._windows.items()
                    if window.second <= now - KEPT_SECONDS]
            for account in idle:
                del self._windows[account]
        if len(self._windows) >= WINDOWS_MAX:
            del self._windows[next(iter(self._windows))]


def _sentence(policy: _Policy, replicas: int) -> str:
    name, _, most = policy
    whose = "This key" if name == "key" else "This key's team"
    shared = "" if replicas == 1 else f", an even part of them at each of {replicas} replicas"
    return f"{whose} may ask {most} times a minute{shared}; nothing of this was stored or sent."


def count(rates: Rates, scope: Scope, caller: Caller) -> None:
    """Count this request once, however often it is looked at. Raises Problem rate_limited."""
    state: dict[str, Any] = scope["state"]
    if STATE not in state:
        state[STATE] = rates.admit(caller)
