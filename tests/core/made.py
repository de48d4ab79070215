"""Tasks, facts and requests made for tests: builders with defaults, and strategies over all their values.

Not held here: any expectation.
"""

from __future__ import annotations

import types
import typing

from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.core.facts import (
    Abandoned,
    Accepted,
    Adopted,
    Cancelled,
    Candidate,
    Cause,
    Continued,
    DeadlinePassed,
    Fact,
    File,
    FileExpired,
    Forgotten,
    KeepingEnded,
    LateEnded,
    Lost,
    NotSent,
    OtherJob,
    OutputMissing,
    Polled,
    QueueTimedOut,
    Rejected,
    RerunAllowed,
    ResubmitAllowed,
    Stored,
    SubmitStarted,
    SubmitUnknown,
    UnknownTimedOut,
)
from gateway.core.states import Task, ref_text
from gateway.core.tasks import apply
from providers.spec import (
    ErrorKind,
    Failed,
    Offering,
    Pending,
    Progress,
    Submitted,
    Succeeded,
    Unrecognised,
    VideoRequest,
)

NOW = 1_800_000_000.0
ONE, TWO = Candidate("one", "kling-v3.0-pro-t2v"), Candidate("two", "kling-v3.0-std-t2v")
CAUSE = Cause("timeout", "no answer")
FILE = File(
    bytes=1000, sha256="ab" * 32, content_type="video/mp4", stored_at=NOW + 60, expires_at=NOW + 86_460
)


def make_task(task_id: str = "video_1", **fields: object) -> Task:
    """A waiting task of `key_1`; `fields` replace any of its values."""
    task = Task(
        id=task_id, owner="key_1", model="kling-v3", state="waiting", stage="waiting", candidates=(ONE, TWO),
        created_at=NOW, deadline_at=NOW + 3600, last_seq=1,
    )
    return replace(task, **fields)


def life(*happened: Fact, task: Task | None = None) -> Task:
    """The task after these facts, a second apart."""
    task = task or make_task()
    for number, fact in enumerate(happened):
        task = apply(task, fact, NOW + number).task
    return task


def polled(raw_status: str = "PROCESSING", progress: int | None = None) -> Polled:
    """The vendor says that it renders."""
    return Polled(Pending(raw_status=raw_status, progress=progress), 3600, "unknown")


SUBMITTED = Submitted(vendor_task_id="v-1", ref={"id": "v-1"}, raw_status="QUEUED", estimate_seconds=60)
RENDERING: tuple[Fact, ...] = (SubmitStarted(ONE, ("0.42", "USD")), Accepted(SUBMITTED))
UNKNOWN: tuple[Fact, ...] = (SubmitStarted(ONE), SubmitUnknown(CAUSE))
FAILED = Failed(raw_status="FAILED", code="vendor_failed", message="no")


def make_request(**fields: object) -> VideoRequest:
    """A text-to-video request that `make_offering()` takes."""
    return replace(VideoRequest(model="kling-v3", prompt="a fox", aspect_ratio="16:9"), **fields)


def make_offering(slug: str = "t2v", **fields: object) -> Offering:
    """A plain text-to-video offering."""
    offering = Offering(
        slug=slug, model="kling-v3", mode="text-to-video", resolutions=("720p", "1080p"), durations=(5, 10),
        aspect_ratios=("16:9", "9:16"), source="made for tests",
    )
    return replace(offering, **fields)


# What a text column takes on every database: no lone surrogates (not UTF-8), no NUL (PostgreSQL stores none).
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
times = st.floats(0, 1e11)
_BY_TYPE: dict[object, st.SearchStrategy[object]] = {
    bool: st.booleans(),
    str: texts,
    int: st.integers(-(2**53), 2**53),
    float: st.floats(allow_nan=False, allow_infinity=False),
    dict[str, str]: st.dictionaries(texts, texts, max_size=3),
    tuple[Candidate, ...]: st.lists(st.builds(Candidate, texts, texts), max_size=3).map(tuple),
    types.NoneType: st.none(),
    File: st.builds(
        File, bytes=st.integers(0, 2**53), sha256=texts, content_type=texts, stored_at=times, expires_at=times
    ),
}


def _values(annotation: object) -> st.SearchStrategy[object]:
    """All values of a field by its annotation, so that a new field is covered as soon as it exists."""
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return st.sampled_from(typing.get_args(annotation))
    if origin in (types.UnionType, typing.Union):
        return st.one_of([_values(part) for part in typing.get_args(annotation)])
    return _BY_TYPE[annotation]


_amounts = st.none() | st.sampled_from(("0.42", "0.70", "999999999.999999999"))
# Of these not every text or number is one: the ledger counts with them.
_COUNTED: dict[str, st.SearchStrategy[object]] = {
    "created_at": times, "reserved_amount": _amounts, "sent_amount": _amounts,
}
_refs = st.none() | st.dictionaries(texts, texts, max_size=2).map(lambda ref: ref_text(ref, None))
tasks: st.SearchStrategy[Task] = st.builds(
    Task,
    **{name: _values(kind) for name, kind in typing.get_type_hints(Task).items()} | _COUNTED | {"ref": _refs},
)

_words = st.sampled_from(("QUEUED", "PROCESSING", "SUCCEED", "WHAT"))
_hints = st.none() | st.integers(-5, 150)
_charged = st.sampled_from(("yes", "no", "unknown"))
_kinds = st.sampled_from(typing.get_args(ErrorKind))
_causes = st.builds(Cause, _kinds, texts, st.none() | st.integers(400, 599), st.none())
_costs = st.none() | st.sampled_from((("0.42", "USD"), ("0.7", "USD"), ("0.42", "EUR")))
_who = st.just("an operator")
_submitted = st.builds(
    Submitted, vendor_task_id=st.sampled_from(("v-1", "v-2", "v-3")), ref=st.just({"id": "v"}),
    raw_status=st.none() | _words, estimate_seconds=st.none() | times,
)
_failed = st.builds(
    Failed, raw_status=_words, code=st.sampled_from(("vendor_failed", "content_policy")), message=texts,
)
_progress: st.SearchStrategy[Progress] = st.one_of(
    st.builds(Pending, raw_status=_words, progress=_hints),
    st.builds(Unrecognised, raw_status=_words, progress=_hints),
    st.builds(Succeeded, raw_status=_words, url=st.none() | st.just("https://files.example/v.mp4"),
              expires_in_seconds=st.none() | times),
    _failed,
)
FACTS: dict[type[Fact], st.SearchStrategy[Fact]] = {
    SubmitStarted: st.builds(SubmitStarted, st.sampled_from((ONE, TWO)), _costs),
    Accepted: st.builds(Accepted, _submitted),
    NotSent: st.builds(NotSent, _causes),
    Rejected: st.builds(Rejected, _causes, st.booleans()),
    SubmitUnknown: st.builds(SubmitUnknown, _causes),
    Polled: st.builds(Polled, _progress, times, _charged, st.booleans()),
    OutputMissing: st.just(OutputMissing()),
    Forgotten: st.builds(Forgotten, _causes),
    Cancelled: st.builds(Cancelled, st.booleans()),
    DeadlinePassed: st.just(DeadlinePassed()),
    QueueTimedOut: st.just(QueueTimedOut()),
    UnknownTimedOut: st.just(UnknownTimedOut()),
    Adopted: st.builds(Adopted, _submitted, _who),
    Abandoned: st.builds(Abandoned, _who),
    ResubmitAllowed: st.builds(ResubmitAllowed, _who),
    RerunAllowed: st.builds(
        RerunAllowed, _failed, _charged, st.lists(st.sampled_from((ONE, TWO)), max_size=2).map(tuple), _who,
    ),
    OtherJob: st.builds(OtherJob, st.just("v-9"), st.sampled_from((ONE, TWO)), st.integers(1, 3)),
    LateEnded: st.just(LateEnded()),
    Continued: st.builds(Continued, texts, _who),
    Stored: st.just(Stored(FILE, "60/video_1-0.mp4")),
    Lost: st.just(Lost("the link has died")),
    KeepingEnded: st.just(KeepingEnded()),
    FileExpired: st.just(FileExpired()),
}
facts: st.SearchStrategy[Fact] = st.one_of(list(FACTS.values()))
