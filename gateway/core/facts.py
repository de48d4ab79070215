"""What can happen to a task, as plain values. What follows from each is in `gateway.core.tasks`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

import msgspec

from providers.spec import Charged, ErrorKind, Failed, Progress, Submitted

Cost: TypeAlias = tuple[str, str]  # a decimal amount as text, and its currency


class Candidate(msgspec.Struct, frozen=True, array_like=True):
    """One way to get a video: a configured provider and the vendor's slug."""

    provider: str
    offering: str


class Fact(msgspec.Struct, frozen=True):
    """The base of all facts: something that happened and is known for sure."""


class Cause(msgspec.Struct, frozen=True):
    """Why a submit gave no acceptance, as far as known; `message` and `reason` are the vendor's, redacted."""

    kind: ErrorKind
    message: str
    http_status: int | None = None
    reason: str | None = None


class SubmitStarted(Fact, frozen=True):
    """The intent to send, committed before the vendor is called. `cost` is the estimate, if there is one."""

    candidate: Candidate
    cost: Cost | None = None


class Accepted(Fact, frozen=True):
    """The vendor accepted and gave an id."""

    submitted: Submitted


class NotSent(Fact, frozen=True):
    """Proof that no byte of the request left us."""

    cause: Cause


class Rejected(Fact, frozen=True):
    """A complete refusal by the vendor: proof that nothing was accepted.

    `is_known`: the gateway knew already that this provider refuses us, so the task only waits on.
    """

    cause: Cause
    is_known: bool = False


class SubmitUnknown(Fact, frozen=True):
    """The vendor may have accepted; nobody can know."""

    cause: Cause


# What can come of a sending: each has one of them.
ANSWERS: Final = (Accepted, NotSent, Rejected, SubmitUnknown)


class Polled(Fact, frozen=True):
    """The vendor answered a poll. `link_seconds` is how long a link lives when the vendor does not say.

    `is_kept`: a file that it has is to be copied out of the vendor's hands.
    """

    progress: Progress
    link_seconds: float
    failed_is_charged: Charged
    is_kept: bool = False


class OutputMissing(Fact, frozen=True):
    """The vendor has said "done" without a link for longer than the grace time."""


class Forgotten(Fact, frozen=True):
    """The vendor has not known its own id for longer than the grace time."""

    cause: Cause


class Cancelled(Fact, frozen=True):
    """The caller cancelled; `detach` stops following what cannot be cancelled."""

    detach: bool = False


class DeadlinePassed(Fact, frozen=True):
    """The task's deadline is over."""


class QueueTimedOut(Fact, frozen=True):
    """The task waited longer than `max_queue_age` at every candidate."""


class UnknownTimedOut(Fact, frozen=True):
    """`unknown_timeout` is over, or the policy is to fail at once."""


class Adopted(Fact, frozen=True):
    """The job of an unknown submission was found; `by` says who knows it."""

    submitted: Submitted
    by: str


class Abandoned(Fact, frozen=True):
    """An operator gives an unknown submission up; `by` says who."""

    by: str


class ResubmitAllowed(Fact, frozen=True):
    """A permission to send once more although the first submit may have been accepted; `by` says whose."""

    by: str


class RerunAllowed(Fact, frozen=True):
    """A permission to buy a render once more elsewhere, because the vendor failed it; `by` says whose.

    `ruled_out` are the candidates that this permission does not extend to.
    """

    failed: Failed
    failed_is_charged: Charged
    ruled_out: tuple[Candidate, ...]
    by: str


class Continued(Fact, frozen=True):
    """An operator found the job of a given-up video, and the video `video_id` has it; `by` says who."""

    video_id: str
    by: str


class OtherJob(Fact, frozen=True):
    """The vendor accepted a sending, the `attempt`th, whose job the task does not follow: it is paid, too."""

    vendor_task_id: str
    candidate: Candidate
    attempt: int


class LateEnded(Fact, frozen=True):
    """Nobody looks any more for what an ended task may still bring."""


class File(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a file that was stored: its length and hash (hexadecimal). Times in Unix seconds."""

    bytes: int
    sha256: str
    content_type: str
    stored_at: float
    expires_at: float


class Stored(Fact, frozen=True):
    """The file is copied out and durable under `key`."""

    file: File
    key: str


class Lost(Fact, frozen=True):
    """The file could not be copied out before its link died, and the vendor has no other link."""

    reason: str


class KeepingEnded(Fact, frozen=True):
    """Files are no longer copied out: the vendor's link is all there is."""


class FileExpired(Fact, frozen=True):
    """The time is over for which a stored file is kept."""


# What a complete refusal says about the request: `final` for all vendors, `elsewhere` for this candidate
# only, `later` for now only. A prompt that one vendor refused is not shopped around.
Scope: TypeAlias = Literal["final", "elsewhere", "later"]
REFUSALS: Final[Mapping[ErrorKind, tuple[Scope, str]]] = {
    "invalid_request": ("final", "vendor_rejected"),
    "content_policy": ("final", "content_policy"),
    "unsupported": ("elsewhere", "vendor_rejected"),
    "auth": ("elsewhere", "vendor_auth"),
    "permission": ("elsewhere", "vendor_auth"),
    "insufficient_credit": ("elsewhere", "insufficient_credit"),
    "rate_limited": ("later", "vendor_rejected"),
    "capacity": ("later", "vendor_rejected"),
    "unavailable": ("later", "vendor_rejected"),
}
