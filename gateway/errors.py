"""Every public error code, once: its HTTP status, its title and whether the same request may succeed later.

    Problem         what an API request is answered with (RFC 9457); raised anywhere above storage
    CannotListen    an address is taken: the start ends with this message
    TASK_ERRORS     the codes that end a task; they stand in `error.code` of a video, not in an HTTP answer

Not held here: how a problem is written (`gateway.api.problems`), what vendors' words mean (the adapters'
tables).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

import msgspec

Code: TypeAlias = Literal[
    "invalid_request", "no_route", "authentication_failed", "permission_denied", "not_found",
    "method_not_allowed", "not_cancellable", "not_resolvable", "not_ready", "expired", "payload_too_large",
    "idempotency_key_reused", "range_not_satisfiable", "vendor_unavailable", "rate_limited", "quota_exceeded",
    "overloaded", "spending_stopped", "internal_error",
]


class CodeInfo(msgspec.Struct, frozen=True):
    """What a code always means: `retryable` says whether the same request, unchanged, may succeed later."""

    status: int
    title: str
    retryable: bool


CODES: Final[Mapping[Code, CodeInfo]] = {
    "invalid_request": CodeInfo(400, "A field breaks a published rule", False),
    "authentication_failed": CodeInfo(401, "No valid key was given", False),
    "permission_denied": CodeInfo(403, "This key's role may not do that", False),
    "not_found": CodeInfo(404, "There is no such thing here", False),
    "method_not_allowed": CodeInfo(405, "This route does not take that method", False),
    "not_cancellable": CodeInfo(409, "This video cannot be cancelled any more", False),
    "not_resolvable": CodeInfo(409, "Nothing of this video can be resolved so", False),
    "not_ready": CodeInfo(409, "This is not possible in the video's present state", True),
    "expired": CodeInfo(410, "This was here and is gone", False),
    "payload_too_large": CodeInfo(413, "The request body is too large", False),
    "range_not_satisfiable": CodeInfo(416, "The range lies outside the video", False),
    "no_route": CodeInfo(422, "No enabled provider takes this combination", False),
    "idempotency_key_reused": CodeInfo(422, "The idempotency key belongs to another request", False),
    "rate_limited": CodeInfo(429, "Too many requests", True),
    "quota_exceeded": CodeInfo(429, "A quota of this key is used up", True),
    "internal_error": CodeInfo(500, "The gateway failed", True),
    "vendor_unavailable": CodeInfo(502, "The vendor's file could not be reached", True),
    "overloaded": CodeInfo(503, "The gateway cannot take this now", True),
    "spending_stopped": CodeInfo(503, "An operator has stopped all spending", True),
}

TASK_ERRORS: Final[Mapping[str, str]] = {
    "vendor_rejected": "The vendor refused the request, or every candidate did.",
    "content_policy": "The vendor refuses the content.",
    "vendor_auth": "No candidate accepts its configured key.",
    "insufficient_credit": "The vendor's account is empty.",
    "vendor_failed": "The vendor's render failed.",
    "no_output": "The vendor says done, but never gave a video.",
    "submission_unknown": "The vendor's answer was lost; it may have accepted, and nothing was sent again.",
    "queue_timeout": "No candidate had a place in time; nothing was charged.",
    "deadline_exceeded": "The deadline passed before the end.",
    "cancelled": "The caller cancelled or stopped following the video.",
}


class CannotListen(Exception):
    """An address of the configuration cannot be listened on; the message says which, and why."""


class FieldError(msgspec.Struct, frozen=True):
    """One field's mistake: a JSON pointer into the body (`?name` for a query parameter), and a sentence."""

    pointer: str
    detail: str


class Problem(Exception):
    """An answer that is an error. `param`: the first wrong field; `extra`: more members of the document."""

    def __init__(
        self,
        code: Code,
        detail: str,
        *,
        errors: tuple[FieldError, ...] = (),
        extra: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.code: Code = code
        self.detail = detail
        self.errors = errors
        self.extra = dict(extra or {})
        self.headers = dict(headers or {})

    @property
    def status(self) -> int:
        """The HTTP status of the code."""
        return CODES[self.code].status

    @property
    def param(self) -> str | None:
        """The first wrong field by name, as `shots/0/prompt`; None when no field is at fault."""
        return self.errors[0].pointer.lstrip("/?") if self.errors else None


def invalid(pointer: str, detail: str) -> Problem:
    """A problem of one field."""
    return Problem("invalid_request", detail, errors=(FieldError(pointer, detail),))
