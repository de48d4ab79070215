"""Three hundred seeds, the ones that once failed, and that the simulation is what it says it is.

Not held here: the judge's own tests (`test_checker`). More seeds: `make simulate SEEDS=n`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from math import inf
from pathlib import Path

import pytest

from tests.simulation.campaign import run_seeds
from tests.simulation.plan import FAMILIES, make_plan
from tests.simulation.planted import PLANTED, planted
from tests.simulation.run import ON_ITS_WAY_SECONDS, run_plan, run_seed
from tests.simulation.shared_plan import ONE_IN, SHARED_FAMILIES, shared_plan

ROOT = Path(__file__).parents[2]
SEEDS = 300
CHUNKS = 7  # so that workers share them; every sixth seed has replicas
SHORT = 1  # of them is enough for every day

# Seeds that once failed, by what was wrong: of scenarios with one process at a time, and with replicas.
REGRESSIONS = {
    "a create that was stored though the database denied it is followed by nobody": (45, 137, 151, 153),
    "a create that was stored though the database denied it ends after its deadline": (286, 1169),
    "a place at a gate is given back twice after a save that was denied": (7158, 8715, 13949, 19741),
    "a place at a gate is never given back after a denied save and a delete": (398, 1338, 7448, 22511),
    "what was claimed though the database denied it is followed by nobody": (37, 72, 101, 145),
    "what the vendor said in between is written after what somebody else saved": (271,),
    "a vendor is asked again and again while the database does not answer whether to buy elsewhere": (92213,),
    "what the free call that finds a vendor back is told of a job is forgotten": (323, 8018, 8040),
}
SHARED_REGRESSIONS = {
    "a replica that joined though the database denied it gives up": (6, 174, 258, 270),
    "what connects while its replica is outlived is sent under the next name": (516, 1266, 1320),
    "a denied fact of one sending is saved again as one of the next": (2730,),
    "what the vendor said in between is written after what another replica saved": (858,),
    "an order that could not be looked up waits for other news": (4848,),
    "a vendor's word that waits to be written is taken for a difference": (4206,),
    "a place at one provider's gate is taken for that of a job at another": (50214, 54318),
    "a policy acts before an owner that was taken for dead can tell its answer": (8334,),
    "the id of a job is forgotten whose answer comes after the order to send once more": (61650,),
}

TAKEN_FOR_DEAD = (9, 23, 29, 380)  # one stands still, and another is started
AWAY_AT_THE_END = 2306  # the database, when nothing that is stored is unfinished

# Planted bugs that a few seeds find; `--planted` looks for all of them.
QUICK = {
    "unknown taken for not sent": range(1, 3),
    "takeover sends again": (15,),
    "gate does not count": range(1, 3),
    "no version fence": (0, 15),
    "lease never ends": (402,),
    "claim leaves the version": (6,),
    "caps counted per process": (0,),
    "name kept after death": (228,),
    "missed news not looked up": (600,),
    "doubt released from the ledger": (1,),
    "purchase never settled": (1,),
}

_TRACES = """
import hashlib
from tests.simulation.run import run_seed
for seed in (5, 23, 27, 144, 355, 516):
    print(seed, hashlib.sha256("\\n".join(run_seed(seed).trace).encode()).hexdigest())
"""


@pytest.mark.parametrize("chunk", [
    pytest.param(chunk, marks=[] if chunk < SHORT else [pytest.mark.long]) for chunk in range(CHUNKS)
])
def test_no_promise_is_broken(chunk: int) -> None:
    totals = run_seeds(range(chunk, SEEDS, CHUNKS))
    assert totals.failing == {}
    assert totals.difference_cents == 0
    assert totals.submissions > 100, "hardly anything was sent: that proves nothing"
    assert totals.seconds > 24 * 3600, "hardly any time has passed"


@pytest.mark.parametrize("name", REGRESSIONS)
def test_what_once_failed(name: str) -> None:
    problems = {seed: run_plan(make_plan(seed)).verdict.problems for seed in REGRESSIONS[name]}
    assert not any(problems.values()), problems


@pytest.mark.parametrize("name", SHARED_REGRESSIONS)
def test_what_once_failed_with_replicas(name: str) -> None:
    problems = {seed: run_plan(shared_plan(seed)).verdict.problems for seed in SHARED_REGRESSIONS[name]}
    assert not any(problems.values()), problems


@pytest.mark.parametrize("name", QUICK)
def test_a_planted_bug_is_found(name: str) -> None:
    with planted(name):
        found = run_seeds(QUICK[name]).failing
    assert found, f"{name}: not found by seeds {QUICK[name]}"
    assert len(PLANTED) >= 12


def test_the_same_seed_is_the_same_trace_in_any_process() -> None:
    traces = [
        subprocess.run(
            [sys.executable, "-c", _TRACES], cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True, text=True, check=True, timeout=120,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert traces[0] == traces[1]
    assert len(set(traces[0].split())) == 12


def test_a_run_does_not_depend_on_the_run_before() -> None:
    alone = run_seed(23).trace
    run_seed(27)
    assert run_seed(23).trace == alone


def test_a_database_that_is_not_shared_is_served_by_one_process_at_a_time() -> None:
    ends = set()
    for seed in TAKEN_FOR_DEAD:
        outcome = run_plan(make_plan(seed))
        lives = outcome.history.lives
        assert all((one.ended_at or inf) <= later.born_at for one, later in pairwise(lives)), seed
        assert outcome.verdict.problems == [], seed
        ends |= {end for end in ("taken for dead", "is found again") for line in outcome.trace if end in line}
    assert len(ends) == 2, "none was killed then, or none went on"


def test_a_run_is_judged_when_what_a_database_away_was_asked_for_is_known() -> None:
    outcome = run_plan(make_plan(AWAY_AT_THE_END))
    (order,), ((_, back_at),) = outcome.plan.orders, outcome.plan.disk.outages
    assert back_at > order.at + ON_ITS_WAY_SECONDS, "it is back before anybody would have judged"
    assert outcome.history.videos == []
    assert outcome.verdict.problems == []


def test_every_fault_is_on_in_some_seed_and_off_in_others() -> None:
    plans = [make_plan(seed) for seed in range(SEEDS)]
    for family in FAMILIES:
        assert 0 < sum(family in plan.families for plan in plans) < SEEDS, family
    assert any(plan.is_calm for plan in plans)


def test_every_fault_befalls_some_replicas_and_not_others() -> None:
    plans = [shared_plan(seed) for seed in range(0, SEEDS * ONE_IN, ONE_IN)]
    for family in SHARED_FAMILIES:
        assert 0 < sum(family in plan.families for plan in plans) < SEEDS, family
    shared = [plan.shared for plan in plans if plan.shared is not None]
    assert {len(one.replicas) for one in shared} == {2, 3}
    assert {peril.kind for one in shared for peril in one.perils} <= set(SHARED_FAMILIES)


@pytest.mark.long
def test_a_replica_that_is_killed_is_inherited_from_within_ten_seconds() -> None:
    totals = run_seeds(range(0, 40 * ONE_IN, ONE_IN))
    assert totals.takeovers > 0, "nobody was killed with something to inherit"
    assert totals.takeover_seconds <= 10.0
    assert totals.outlived > 0, "nobody was declared dead and lived"
