"""The callers of a campaign: they order, send again until answered, follow, cancel, and note what they saw.

Held here: what good clients do with the idempotency key of each video, at random but seeded. Not held here:
what it proves (`history`), the connection (`wire`), what happens to the gateway meanwhile (the campaigns).
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from typing import Final

import msgspec

from tests.campaigns.history import TERMINAL, Order
from tests.campaigns.wire import Answer, Client, Unanswered

HELD_SECONDS: Final = 2  # that a follower asks to be held for
_DOOM: Final = "stuck"
_PAUSE_SECONDS: Final = (0.01, 0.1)  # before sending again
_IDLE_SECONDS: Final = (0.0, 0.3)  # after a video that is not followed


class Menu(msgspec.Struct, frozen=True, kw_only=True):
    """What is ordered: `faults` are directives for the simulators and each one's share of the orders.

    `doomed`: the share of videos that never end at their vendor, with a deadline of 1 to 3 s; `deadline`: of
    those with another fault, in seconds. `followed`, `cancelled`: of all, the rest is left alone; `twice`:
    sent by two connections at once.
    """

    faults: tuple[tuple[str, float], ...] = ()
    deadline: int | None = None
    doomed: float = 0.03
    followed: float = 0.6
    cancelled: float = 0.15
    twice: float = 0.05


class Callers:
    """A crowd that goes on ordering until it is closed, and then until each order has its answer.

    `door` says before each request which port it goes to.
    """

    def __init__(self, door: Callable[[], int], chance: random.Random, menu: Menu) -> None:
        self._door, self._chance, self._menu = door, chance, menu
        self.orders: list[Order] = []
        self.statuses: Counter[int] = Counter()
        self.fates: Counter[str] = Counter()
        self.failures: list[Unanswered] = []  # but those that nobody could connect for
        self.is_open = True

    async def run(self, count: int) -> None:
        """Order with `count` callers at once until closed; every second one keeps its connection."""
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(self._live(Client(self._door(), keeps=number % 2 == 0)))

    def close(self) -> None:
        """Order nothing new."""
        self.is_open = False

    async def _live(self, client: Client) -> None:
        while self.is_open:
            order, body = self._next()
            await self._ordered(client, order, body)
            if not order.ids:
                continue
            drawn = self._chance.random()
            if drawn < self._menu.cancelled:
                await asyncio.sleep(self._chance.uniform(*_IDLE_SECONDS))
                await self._cancel(client, order)
            elif drawn < self._menu.cancelled + self._menu.followed:
                await self._follow(client, order)
            else:
                await asyncio.sleep(self._chance.uniform(*_IDLE_SECONDS))
        client.close()

    def _next(self) -> tuple[Order, dict[str, object]]:
        """One more order, and its body."""
        menu = self._menu
        kinds: list[tuple[str, float]] = [*menu.faults, (_DOOM, menu.doomed)]
        kinds.append(("", 1.0 - sum(share for _, share in kinds)))
        fault = self._chance.choices([kind for kind, _ in kinds], [share for _, share in kinds])[0]
        if fault == _DOOM:
            return self.next_order(fault, self._chance.randint(1, 3))
        return self.next_order(fault, menu.deadline if fault else None)

    def next_order(self, fault: str, deadline: int | None) -> tuple[Order, dict[str, object]]:
        """One more order, with this directive and deadline, and its body."""
        order = Order(f"video {len(self.orders) + 1}" + (f" [[fault:{fault}]]" if fault else ""), deadline)
        self.orders.append(order)
        body = {"prompt": order.prompt, "duration": 5, "priority": self._chance.randint(-2, 2)}
        return order, body | ({} if deadline is None else {"deadline": deadline})

    async def _ordered(self, client: Client, order: Order, body: dict[str, object]) -> None:
        if self._chance.random() < self._menu.twice:
            other = Client(self._door(), keeps=False)
            await asyncio.gather(
                self.create(client, order, body, is_alone=False),
                self.create(other, order, body, is_alone=False),
            )
        else:
            await self.create(client, order, body, is_alone=True)

    async def create(
        self, client: Client, order: Order, body: dict[str, object], *, is_alone: bool
    ) -> None:
        """Order it; what comes of it is noted. `is_alone`: nobody else sends the same just now."""
        key = {"Idempotency-Key": order.prompt.partition(" [[")[0]}
        before = client.failures
        answer = await self.send(client, "POST", "/v1/videos", body, key)
        if answer.status != 202:
            order.is_refused = True
            order.oddities.append(f"its creation was answered {answer.status}: {answer.body[:300]!r}")
            return
        if is_alone and client.failures > before and "idempotent-replayed" in answer.headers:
            order.is_replayed = True
        video = answer.json()
        order.ids.append(video["id"])
        order.see(video)

    async def _cancel(self, client: Client, order: Order) -> None:
        query = self._chance.choice(("", "?detach=true"))
        answer = await self.send(client, "POST", f"/v1/videos/{order.ids[0]}/cancel{query}")
        if answer.status not in (200, 409):
            order.oddities.append(f"its cancellation was answered {answer.status}: {answer.body[:300]!r}")
        elif answer.status == 200:
            order.see(answer.json())

    async def _follow(self, client: Client, order: Order) -> None:
        while self.is_open:
            answer = await self.send(client, "GET", f"/v1/videos/{order.ids[0]}?wait={HELD_SECONDS}")
            if answer.status != 200:
                order.oddities.append(f"promised, then answered {answer.status}: {answer.body[:300]!r}")
                return
            video = answer.json()
            order.see(video)
            if video["status"] in TERMINAL:
                return

    async def send(
        self, client: Client, method: str, path: str, body: object = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Send until there is an answer other than "later"."""
        while True:
            client.turn_to(self._door())
            try:
                answer = await client.call(method, path, body, headers)
            except Unanswered as failure:
                self.fates[failure.fate] += 1
                if failure.fate != "refused":
                    self.failures.append(failure)
                await asyncio.sleep(self._chance.uniform(*_PAUSE_SECONDS))
                continue
            self.statuses[answer.status] += 1
            if answer.status != 503:
                return answer
            await asyncio.sleep(self._chance.uniform(*_PAUSE_SECONDS))
