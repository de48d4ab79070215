"""Every group of cases, by the name that the command line knows it by, in the order of the report.

Not held here: the peers' group, which `make bench-peers` runs (`peers`); what the groups do (their modules).
"""

from __future__ import annotations

from itertools import count
from typing import Final

from tests.bench import detection
from tests.bench.cases import RATIO, Case, Group, Sample
from tests.bench.following import INFLIGHT, POLLS, RESTART
from tests.bench.serving import CREATE, READ, STARTS
from tests.bench.stage import Stage
from tests.bench.storing import FSYNC, LIST, WRITES
from tests.bench.waiting import CONTENT, CROWD, FANOUT


def _detecting(stage: Stage) -> list[Case]:
    """The schedule in virtual time, each round with other histories; small runs measure fewer renders."""
    measured = stage.sized(detection.MEASURED, 200)
    return [
        _detected(name, learned, measured)
        for name in detection.RENDERS for learned in detection.LEARNED_FROM
    ]  # fmt: skip


def _detected(name: str, learned: int, measured: int) -> Case:
    seeds = count()

    def run() -> Sample:
        polls, delay, interval, late = detection.compared(
            detection.RENDERS[name], learned, next(seeds), measured
        )
        return {"polls": polls, "median delay s": delay, "fixed interval s": interval,
                "its median delay s": late, RATIO: delay / late}

    return Case(detected(name, learned), run)


def detected(name: str, learned: int) -> str:
    """The row of such renders, after so many were learned from."""
    return f"{name}; learned from {learned}"


DETECTION: Final = Group(
    name="detection", title="Detection delay", open=_detecting, is_warmed=False, rounds=5,
    note="""In virtual time: how late the end of a render is seen, by the gateway's schedule and by a
fixed interval that needs as many polls. What is learned is only what polls show.""",
)
GROUPS: Final = {group.name: group for group in (
    CREATE, READ, FSYNC, LIST, FANOUT, CROWD, POLLS, INFLIGHT, DETECTION, RESTART, CONTENT, WRITES, STARTS,
)}  # fmt: skip
