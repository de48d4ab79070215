"""`gateway/README.md` says what the code does: its drawing and its tables against the rules, cell by cell.

Held here: the comparison, by asking the code. Not held here: whether the rules are right (`tests/core`,
`tests/providers`).
"""

from __future__ import annotations

import re
import typing
from pathlib import Path

import httpx
import pytest

from gateway.core.after_end import LATE_SECONDS
from gateway.core.facts import (
    REFUSALS,
    Accepted,
    Cancelled,
    Cause,
    Continued,
    DeadlinePassed,
    Fact,
    LateEnded,
    NotSent,
    Polled,
    Rejected,
    SubmitStarted,
    SubmitUnknown,
    UnknownTimedOut,
)
from gateway.core.health import DOWN, OPEN_AFTER, REFUSED_SECONDS, REFUSES_US
from gateway.core.pacing import GRACE_SECONDS, OUTPUT_GRACE_SECONDS
from gateway.core.states import State
from gateway.core.tasks import EDGES, PROGRESS_STEP, apply
from gateway.errors import TASK_ERRORS
from providers import adapters
from providers.http import Account, VendorHTTP, refusal
from providers.spec import (
    ErrorKind,
    Failed,
    Outcome,
    Reply,
    Submitted,
    Succeeded,
    VendorError,
    VideoRequest,
)
from providers.transport import UnreadableAnswer
from tests.core.made import NOW, ONE, make_task

pytestmark = pytest.mark.anyio

README = (Path(__file__).parents[1] / "gateway" / "README.md").read_text(encoding="utf-8")
KINDS = typing.get_args(ErrorKind)


def table(*head: str) -> list[list[str]]:
    """The cells of the one table with this head, without their backquotes around single words."""
    lines = README.splitlines()
    heads = [number for number, line in enumerate(lines) if line == f"| {' | '.join(head)} |"]
    assert len(heads) == 1, f"{len(heads)} tables have the head {head}"
    rows = []
    for line in lines[heads[0] + 2:]:
        if not line.startswith("|"):
            break
        rows.append([re.sub(r"`(\w+)`", r"\1", cell.strip()) for cell in line.strip("|").split("|")])
    return rows


def word(kind: type[Fact]) -> str:
    return kind.__name__


# --- the state machine --------------------------------------------------------------------------------

def test_the_table_of_states_is_the_table_of_the_code() -> None:
    rows = table("from", "fact", "to", "when")
    told = {(start, fact): set(ends.split(", ")) for start, fact, ends, _ in rows}
    assert told == {(start, word(kind)): set(ends) for (start, kind), ends in EDGES.items()}
    assert len(told) == len(rows)
    assert all(when for *_, when in rows)


def test_the_drawing_has_every_edge_and_no_other() -> None:
    found = re.search(r"```mermaid\n(.*?)```", README, re.DOTALL)
    assert found is not None
    arrows = re.findall(r"^ +(\w+) --> (\w+): (.*)$", found.group(1), re.MULTILINE)
    drawn = [(start, end, fact) for start, end, facts in arrows for fact in facts.split(", ")]
    edges = [(start, end, word(kind)) for (start, kind), ends in EDGES.items() for end in ends]
    assert sorted(drawn) == sorted(edges)
    assert found.group(1).count("-->") == len(arrows) + 1  # and the way in
    assert f"[*] --> {make_task().state}" in found.group(1)


CAUSE = Cause("broken", "reset")
SUBMITTED = Submitted(vendor_task_id="v-1", ref={"id": "v-1"})
SENDING: tuple[Fact, ...] = (SubmitStarted(ONE), DeadlinePassed())
RENDERING: tuple[Fact, ...] = (SubmitStarted(ONE), Accepted(SUBMITTED), DeadlinePassed())
GIVEN_UP: tuple[Fact, ...] = (SubmitStarted(ONE), SubmitUnknown(CAUSE), UnknownTimedOut())
LINKED = Polled(Succeeded(raw_status="SUCCEED", url="https://files.example/v.mp4"), 600, "unknown")
FAILED = Polled(Failed(raw_status="FAILED", code="vendor_failed", message="no"), 600, "no")
# What the documents call it: how the task came to its end, and what happens then.
AFTER_THE_END: dict[str, tuple[tuple[Fact, ...], Fact]] = {
    "Accepted": (SENDING, Accepted(SUBMITTED)),
    "NotSent": (SENDING, NotSent(CAUSE)),
    "Rejected": (SENDING, Rejected(CAUSE)),
    "Polled, with a link": (RENDERING, LINKED),
    "Polled, failed": (RENDERING, FAILED),
    "LateEnded": (RENDERING, LateEnded()),
    "Continued": (GIVEN_UP, Continued("video_2", "an operator")),
}


def test_what_is_noted_after_the_end() -> None:
    told = table("fact after the end", "noted as", "`charged`")
    assert [name for name, *_ in told] == list(AFTER_THE_END)
    for name, noted, charged in told:
        happened, fact = AFTER_THE_END[name]
        task = make_task()
        for earlier in happened:
            task = apply(task, earlier, NOW).task
        change = apply(task, fact, NOW + 5)
        assert [event.type for event in change.events] == [noted], name
        meant = {"as before": task.charged, "as its offering says": FAILED.failed_is_charged}
        assert change.task.charged == meant.get(charged, charged), name
        assert change.task.state == task.state


# --- what came of a submit ----------------------------------------------------------------------------

OUTCOMES = table("what happened", "class", "kind", "what follows")
FAILURES: dict[str, Exception] = {
    error.__name__: error("made for a test") for error in (
        httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError, httpx.PoolTimeout,
        httpx.UnsupportedProtocol, httpx.ReadTimeout, httpx.WriteTimeout, httpx.ReadError, httpx.WriteError,
        httpx.RemoteProtocolError, TimeoutError, UnreadableAnswer,
    )
}


def state_after(outcome: str, kind: str) -> str:
    """Where a submit with this end leaves its task, in the words of the document."""
    cause = Cause(typing.cast(ErrorKind, kind), "made for a test")
    if outcome == "rejected":
        return "a refusal"
    fact = {"not_sent": NotSent(cause), "unknown": SubmitUnknown(cause)}[outcome]
    state: State = apply(apply(make_task(), SubmitStarted(ONE), NOW).task, fact, NOW).task.state
    return state


def door_over(transport: httpx.AsyncBaseTransport) -> VendorHTTP:
    account = Account(base_url="https://vendor.example", api_key="key")
    return VendorHTTP(account, fresh=transport, pooled=transport, observe=lambda *_: None)


class Answers(httpx.AsyncBaseTransport):
    """Answers every call with a success that says nothing."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=httpx.ByteStream(b"{}"))


class Breaks(httpx.AsyncBaseTransport):
    """Ends every call in the same way."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        raise self.error


async def proof_of(error: Exception) -> tuple[Outcome, ErrorKind]:
    with pytest.raises(VendorError) as caught:
        await door_over(Breaks(error)).submit("/path", {})
    return caught.value.outcome, caught.value.kind


def answered(status: int, body: bytes) -> tuple[Outcome, ErrorKind]:
    """What a complete answer proves, where the adapter asserts nothing of its own."""
    error = refusal(Reply(status, body), door_over(Breaks(TimeoutError())), {})
    return error.outcome, error.kind


async def test_every_failure_of_a_call_is_in_the_table_once_and_proves_what_it_says() -> None:
    told = {
        name: (outcome, kind) for what, outcome, kind, _ in OUTCOMES
        for name in re.findall(r"\b[A-Z]\w+(?:Error|Timeout|Protocol|Answer)\b", what)
    }
    assert told == {name: await proof_of(error) for name, error in FAILURES.items()}


def meant(status: int, *, has_object: bool) -> tuple[str, str]:
    """Class and kind by the table's words for a status; a row that names it goes before one of its class."""
    for what, outcome, kind, _ in OUTCOMES:
        named = re.fullmatch(r"([0-9, ]+)( with a JSON object)?", what)
        if named and str(status) in named.group(1).split(", ") and (has_object or not named.group(2)):
            return outcome, kind
    words = "5xx" if status >= 500 else "any other 3xx or 4xx"
    return next((outcome, kind) for what, outcome, kind, _ in OUTCOMES if what == words)


@pytest.mark.parametrize("body", [b'{"code": 1}', b"<html>", b""], ids=["object", "page", "nothing"])
def test_every_status_proves_what_the_table_says(body: bytes) -> None:
    is_object = body.startswith(b"{")
    told = {status: meant(status, has_object=is_object) for status in range(300, 600)}
    assert told == {status: answered(status, body) for status in range(300, 600)}


@pytest.mark.parametrize("name", adapters())
async def test_a_success_without_a_usable_id_proves_what_the_table_says(name: str) -> None:
    info = adapters()[name]
    adapter, offering = info.build(door_over(Answers())), info.offerings[0]
    with pytest.raises(VendorError) as caught:
        await adapter.submit(VideoRequest(model=offering.model, prompt="a"), offering)
    told = next(row[1:3] for row in OUTCOMES if row[0] == "2xx without a usable id")
    assert [caught.value.outcome, caught.value.kind] == told


def test_each_row_says_where_its_task_goes() -> None:
    assert [row[3] for row in OUTCOMES] == [state_after(outcome, kind) for _, outcome, kind, _ in OUTCOMES]


# --- what a kind means --------------------------------------------------------------------------------

def test_each_kind_means_for_task_and_provider_what_the_table_says() -> None:
    told = table("kind", "refused", "ends as", "the provider")
    assert {kind for kind, *_ in told} == set(KINDS)
    assert len(told) == len(KINDS)
    for name, refused, code, provider in told:
        kind = typing.cast(ErrorKind, name)
        scope, ends_as = REFUSALS.get(kind, ("-", "-"))
        says = "is down" if kind in DOWN else "refuses us" if kind in REFUSES_US else "is there"
        assert (refused, provider) == (scope, says), name
        assert code == ("-" if scope == "later" else ends_as), name
        assert code == "-" or code in TASK_ERRORS


@pytest.mark.parametrize("kind", REFUSALS)
@pytest.mark.parametrize("has_others", [True, False])
def test_a_scope_does_what_the_page_says_of_it(kind: ErrorKind, has_others: bool) -> None:
    task = make_task() if has_others else make_task(candidates=(ONE,))
    sent = apply(task, SubmitStarted(ONE), NOW).task
    after = apply(sent, Rejected(Cause(kind, "no")), NOW).task
    scope, code = REFUSALS[kind]
    ends = scope == "final" or (scope == "elsewhere" and not has_others)
    assert (after.state, after.error_code) == (("failed", code) if ends else ("waiting", None))
    assert (ONE in after.open_candidates) is (scope == "later")


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("Five tasks in a row", OPEN_AFTER == 5),
        ("left alone for half a minute to a quarter of an hour", REFUSED_SECONDS == (30.0, 900.0)),
        ('"done" without a link for longer than a minute', OUTPUT_GRACE_SECONDS == 60.0),
        ("denies its own id for longer than two minutes", GRACE_SECONDS == 120.0),
        ("asked for it ever more seldom, for a day", LATE_SECONDS == 86_400.0),
        ("progress when it moved by 50", PROGRESS_STEP == 50),
    ],
)
def test_the_numbers_of_the_page_are_those_of_the_code(words: str, value: bool) -> None:
    assert words in " ".join(README.split())
    assert value


def test_every_way_out_of_an_unfinished_state_to_the_caller_is_there() -> None:
    assert {start for start, kind in EDGES if kind is Cancelled} == {start for start, _ in EDGES}
    assert {start for start, kind in EDGES if kind is DeadlinePassed} == {start for start, _ in EDGES}
