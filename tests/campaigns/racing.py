"""The callers of a race over real replicas: they order for keys with caps, twice, again, and cancel.

Held here: what they send and what they count. Not held here: the replicas (`races`), whether a cap was kept
to (`watched_purses`).
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from tests.campaigns.purses import Caller
from tests.campaigns.wire import Answer, Client, Unanswered

CHEAPEST_SECONDS: Final = 3
_PAUSE_SECONDS: Final = (0.01, 0.1)  # before sending again
_ROOM_SECONDS: Final = (0.2, 1.0)  # before asking again for a place in line
_TWICE, _CANCELLED, _RERUN = 0.1, 0.15, 0.1
# What the vendors do with a video, and the share of each: refused for free, failed and charged, unanswered.
_FAULTS: Final = (
    ("", 0.64), ("policy", 0.1), ("rate_limited times=1", 0.05), ("capacity times=2", 0.05), ("failed", 0.1),
    ("reset_after_accept", 0.03), ("reset_before_work", 0.03),
)


class Racer(msgspec.Struct, frozen=True):
    """A key, and the secret that it is known by."""

    caller: Caller
    secret: str

    @property
    def has_money(self) -> bool:
        """Whether it, or its team, may spend only so much."""
        return any(limits.has_money for _, limits in self.caller.limits)


class Crowd:
    """All who order. `door` says before each request which port it goes to.

    `accepted` are the ids of all 202s, `sent` counts the creates.
    """

    def __init__(self, racers: Sequence[Racer], door: Callable[[], int], chance: random.Random) -> None:
        self._racers, self._door, self._chance = racers, door, chance
        self.statuses: Counter[str] = Counter()
        self.accepted: set[str] = set()
        self.problems: list[str] = []
        self.sent = 0
        self._number = 0

    async def race(self, size: int, count: int, on_half: Callable[[], None]) -> None:
        """`size` creates by `count` callers at once; `on_half` is called in the middle."""
        left = size

        async def live() -> None:
            nonlocal left
            client = Client(self._door(), keeps=True)
            while left > 0:
                left -= 1
                if left == size // 2:
                    on_half()
                await self._order(client, self._chance.choice(self._racers))
            client.close()

        await asyncio.gather(*(live() for _ in range(count)))

    async def fill(self, count: int) -> None:
        """Spend what is left, video by video, until every key that has a cap is refused for money."""
        async def live(number: int) -> None:
            client = Client(self._door(), keeps=True)
            capped = [racer for racer in self._racers if racer.has_money]
            for racer in capped[number % len(capped) :] + capped[: number % len(capped)]:
                while await self._filled(client, racer):
                    pass
            client.close()

        await asyncio.gather(*(live(number) for number in range(count)))

    async def _filled(self, client: Client, racer: Racer) -> bool:
        """One more of the cheapest; False: there is no money for it."""
        answer = await self._create(client, racer, self._body(racer, "", CHEAPEST_SECONDS))
        if answer.status == 429 and answer.json().get("retryable") is not False:
            await asyncio.sleep(self._chance.uniform(*_ROOM_SECONDS))
        return answer.status != 429 or answer.json().get("retryable") is not False

    async def _order(self, client: Client, racer: Racer) -> None:
        chance = self._chance
        kinds, shares = zip(*_FAULTS, strict=True)
        body = self._body(racer, chance.choices(kinds, shares)[0], chance.randint(CHEAPEST_SECONDS, 8))
        if chance.random() < _TWICE:
            other = Client(self._door(), keeps=False)
            number = self._number
            both = await asyncio.gather(
                self._create(client, racer, body, number), self._create(other, racer, body, number)
            )
            if len({answer.json()["id"] for answer in both if answer.status == 202}) > 1:
                self.problems.append(f"one idempotency key has two videos: {body['prompt']}")
            answer = min(both, key=lambda one: one.status)
        else:
            answer = await self._create(client, racer, body)
        if answer.status != 202:
            return
        video, share = answer.json()["id"], chance.random()
        if share < _CANCELLED:
            query = chance.choice(("", "?detach=true"))
            await self._send(client, racer, f"/v1/videos/{video}/cancel{query}", None, {})
        elif share < _CANCELLED + _RERUN:
            self._number += 1
            key = {"Idempotency-Key": f"race {self._number}"}
            self._count(await self._send(client, racer, f"/v1/videos/{video}/rerun", None, key))

    def _body(self, racer: Racer, fault: str, seconds: int) -> dict[str, object]:
        self._number += 1
        words = f"race {self._number} of {racer.caller.key_id}" + (f" [[fault:{fault}]]" if fault else "")
        return {"prompt": words, "duration": seconds, "audio": False, "resolution": "720p"}

    async def _create(
        self, client: Client, racer: Racer, body: dict[str, object], number: int | None = None
    ) -> Answer:
        key = {"Idempotency-Key": f"race {self._number if number is None else number}"}
        answer = await self._send(client, racer, "/v1/videos", body, key)
        self._count(answer)
        return answer

    def _count(self, answer: Answer) -> None:
        self.sent += 1
        word = "" if answer.status < 400 else f" {answer.json().get('code')}"
        self.statuses[f"{answer.status}{word}"] += 1
        if answer.status == 202:
            self.accepted.add(answer.json()["id"])
        elif answer.status == 429 and answer.json().get("charged") != "no":
            self.problems.append(f"a refusal does not say that nothing was charged: {answer.body[:300]!r}")
        elif answer.status not in (202, 429):
            self.problems.append(f"an order was answered {answer.status}: {answer.body[:300]!r}")

    async def _send(
        self, client: Client, racer: Racer, path: str, body: object, headers: dict[str, str]
    ) -> Answer:
        """Send until there is an answer other than "later"."""
        headers = headers | {"Authorization": f"Bearer {racer.secret}"}
        while True:
            client.turn_to(self._door())
            try:
                answer = await client.call("POST", path, body, headers)
            except Unanswered as failure:
                self.statuses[failure.fate] += 1
            else:
                if answer.status != 503:
                    return answer
                self.statuses["503, sent again"] += 1
            await asyncio.sleep(self._chance.uniform(*_PAUSE_SECONDS))
