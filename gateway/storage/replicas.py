"""The processes that share a database: who lives, and what they hold in common (places, learned times).

Held here: the statements of these tables. Not held here: videos (`store`), when a replica counts as dead and
what it does about it (`gateway.engine.replica`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
from msgspec.structs import replace

from gateway.core.render_times import TimesRow
from gateway.core.reports import Report
from gateway.storage.db import Database, GuardFailed, NoRoom, Step, Value

_NOW: Final = "extract(epoch from clock_timestamp())::double precision"
_IN_FLIGHT: Final = "('submitting', 'rendering', 'submission_unknown')"
SENDINGS_KEPT_SECONDS: Final = 120.0
DEAD_KEPT_SECONDS: Final = 86_400.0  # how long what a dead replica stored late is still looked for

_reports: Final = msgspec.json.Decoder(dict[str, Report])

# S608: what is put into these texts are the constants above, never input.
REPLICA_ADD: Final = f"""insert into replicas (id, place, role, version, started_at, beat_at, following)
    values ($1, $2, $3, $4, {_NOW}, {_NOW}, '{{}}')"""  # noqa: S608
REPLICA_BEAT: Final = f"""update replicas set beat_at = {_NOW}, following = $2, met = $3
    where id = $1 and ended_at is null"""  # noqa: S608
REPLICAS_END: Final = f"""update replicas set ended_at = {_NOW}
    where ended_at is null and id <> $1 and beat_at < {_NOW} - $2"""  # noqa: S608
REPLICAS_END_AT: Final = f"""update replicas set ended_at = {_NOW}
    where ended_at is null and id <> $1 and place = $2"""  # noqa: S608
REPLICA_LEAVE: Final = f"update replicas set ended_at = {_NOW} where id = $1"  # noqa: S608
REPLICAS_DROP: Final = f"delete from replicas where ended_at < {_NOW} - {DEAD_KEPT_SECONDS}"  # noqa: S608
REPLICAS_LIVING: Final = f"""select id, place, role, version, following, met, {_NOW} - beat_at
    from replicas where ended_at is null order by started_at, id"""  # noqa: S608
REPLICAS_SEEN: Final = "select id, place from replicas"

GATE_TAKE: Final = """insert into provider_gates (provider, passed) values ($1, 1)
    on conflict (provider) do update set passed = provider_gates.passed + 1"""
SENDING_ADD: Final = f"insert into provider_sendings (provider, at) values ($1, {_NOW})"  # noqa: S608
SENDINGS_DROP: Final = f"""delete from provider_sendings
    where at < {_NOW} - {SENDINGS_KEPT_SECONDS}"""  # noqa: S608
CAP_HOLDS: Final = f"""update provider_gates set passed = passed where provider = $1 and $2 >= (
        select count(*) from videos where provider = $1 and state in {_IN_FLIGHT})"""  # noqa: S608
RATE_HOLDS: Final = f"""update provider_gates set passed = passed where provider = $1 and $2 >= (
        select count(*) from provider_sendings where provider = $1 and at > {_NOW} - $3)"""  # noqa: S608

RENDER_TIMES_GET: Final = "select provider, offering, duration, audio, bin, count from render_times"
RENDER_TIME_ADD: Final = """insert into render_times (provider, offering, duration, audio, bin, count)
    values ($1, $2, $3, $4, $5, $6) on conflict (provider, offering, duration, audio, bin)
    do update set count = render_times.count + excluded.count"""
RENDER_TIMES_FADE: Final = """update render_times set count = count / 2
    where provider = $1 and offering = $2 and duration = $3 and audio = $4"""


class ReplicaRow(msgspec.Struct, frozen=True, kw_only=True):
    """A process that lives: `place` is its host and port, `following` its jobs at each provider.

    `met` is what its calls have met at each provider; empty of a version that does not tell, or tells what
    this one does not know. `silent_seconds` ago it last beat, by the database's clock.
    """

    id: str
    place: str
    role: str
    version: str
    following: Mapping[str, int]
    met: Mapping[str, Report] = msgspec.field(default_factory=dict)
    silent_seconds: float = 0.0

    def report(self, provider: str) -> Report:
        """What it tells of a provider, its jobs there in any case."""
        return replace(self.met.get(provider, Report()), in_flight=self.following.get(provider, 0))


class Outlived(GuardFailed):
    """A replica was declared dead, and others may own what it owned: it must not act on what it knows."""


class Room(msgspec.Struct, frozen=True):
    """What a provider allows over all replicas: jobs at once, submits in any `window_seconds`. None: any."""

    provider: str
    max_in_flight: int | None
    per_window: int | None
    window_seconds: float

    @property
    def is_bounded(self) -> bool:
        """Whether there is anything to hold."""
        return self.max_in_flight is not None or self.per_window is not None

    def before(self) -> list[Step]:
        """Steps that make everybody who wants a place here wait for this write's end."""
        taken = Step(GATE_TAKE, (self.provider,), turn=f"provider {self.provider}")
        return [taken] if self.per_window is None else [taken, Step(SENDING_ADD, (self.provider,))]

    def after(self) -> list[Step]:
        """Steps behind the change that takes the place: where there is none they undo it, with NoRoom."""
        steps = []
        if self.max_in_flight is not None:
            steps.append(Step(CAP_HOLDS, (self.provider, self.max_in_flight), NoRoom))
        if self.per_window is not None:
            steps.append(Step(RATE_HOLDS, (self.provider, self.per_window, self.window_seconds), NoRoom))
        return steps


def _met(told: Value) -> dict[str, Report]:
    try:
        return {} if told is None else _reports.decode(str(told))
    except msgspec.MsgspecError:
        return {}  # a newer version tells what this one does not know


class Replicas:
    """The processes on one database. Raises `StorageError` of `gateway.storage.db` throughout."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def join(self, replica: str, place: str, role: str, version: str) -> None:
        """Begin to live."""
        await self._database.write((Step(REPLICA_ADD, (replica, place, role, version)),))

    async def beat(self, replica: str, met: Mapping[str, Report]) -> None:
        """Say that it lives, and what it has met. Raises Outlived when it was declared dead."""
        following = {name: one.in_flight for name, one in met.items()}
        told = tuple(msgspec.json.encode(some).decode() for some in (following, met))
        await self._database.write((Step(REPLICA_BEAT, (replica, *told), Outlived),))

    async def end(self, replica: str, lease_seconds: float) -> None:
        """Declare dead who has not beaten for `lease_seconds`, and drop what is too old to matter."""
        steps = Step(REPLICAS_END, (replica, lease_seconds)), Step(REPLICAS_DROP, ()), Step(SENDINGS_DROP, ())
        await self._database.write(steps)

    async def end_at(self, replica: str, place: str) -> None:
        """Declare dead who served at `place` before: there can be but one."""
        await self._database.write((Step(REPLICAS_END_AT, (replica, place)),))

    async def leave(self, replica: str) -> None:
        """Stop living, at once: what it owns is anybody's."""
        await self._database.write((Step(REPLICA_LEAVE, (replica,)),))

    async def living(self) -> list[ReplicaRow]:
        """Who lives, oldest first."""
        rows = await self._database.read(REPLICAS_LIVING)
        return [
            ReplicaRow(
                id=str(name), place=str(place), role=str(role), version=str(version),
                following=msgspec.json.decode(str(following), type=dict[str, int]),
                met=_met(met), silent_seconds=float(silent or 0),
            )
            for name, place, role, version, following, met, silent in rows
        ]

    async def seen(self) -> dict[str, str]:
        """The place of everybody who lives or lived within the last day, by id."""
        return {str(name): str(place) for name, place in await self._database.read(REPLICAS_SEEN)}

    async def render_times(self) -> list[TimesRow]:
        """How many renders of each kind fell into each bin."""
        rows = await self._database.read(RENDER_TIMES_GET)
        names = TimesRow.__struct_fields__
        return [msgspec.convert(dict(zip(names, row, strict=True)), TimesRow) for row in rows]

    async def render_times_add(self, rows: Iterable[TimesRow]) -> None:
        """Add to the bins."""
        await self._database.write([Step(RENDER_TIME_ADD, msgspec.structs.astuple(row)) for row in rows])

    async def render_times_fade(self, kinds: Iterable[tuple[str, str, int, int]]) -> None:
        """Halve the bins of kinds (provider, offering, duration, audio), so that the recent counts more."""
        await self._database.write([Step(RENDER_TIMES_FADE, kind) for kind in kinds])
