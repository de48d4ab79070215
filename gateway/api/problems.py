"""Errors as RFC 9457 documents: every one, those of the framework and those nobody foresaw included.

Not held here: which codes there are (`gateway.errors`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.openapi.datastructures import ResponseSpec
from litestar.types import ExceptionHandlersMap

from gateway.api.base import under_base
from gateway.api.gateway import gateway_of, request_id_of
from gateway.core.states import Task
from gateway.errors import CODES, Code, FieldError, Problem
from gateway.storage.db import StorageBusy, StorageError, StorageShort

MEDIA_TYPE: Final = "application/problem+json"
TYPES: Final = "/docs#"  # where the page has a line on each code
_FAULT: Final = "The gateway failed; its log has the details under this request id."

# By kind, the narrower first.
_STORAGE: Final[dict[type[StorageError], str]] = {
    StorageShort: "The gateway's disk or database is in trouble: nothing new is taken, what was is finished.",
    StorageBusy: "The gateway has more to store than it can at the moment; nothing was stored or sent.",
    StorageError: "The gateway's database does not answer in time. Repeat a create only with its "
    "Idempotency-Key.",
}
# What Litestar raises, by status. Anything else of 4xx is a request that breaks a rule.
_FRAMEWORK: Final[dict[int, Code]] = {
    401: "authentication_failed", 403: "permission_denied", 404: "not_found", 405: "method_not_allowed",
    413: "payload_too_large", 429: "rate_limited", 500: "internal_error", 503: "overloaded",
}

# What the OpenAI API calls an error, by status; any other of 4xx is an invalid_request_error.
_OPENAI_TYPES: Final = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}

# The routes that permit spending, and whether an idempotency key makes repeating one safe.
_SPENDING: Final = {
    "/v1/videos": True, "/v1/videos/{video_id}/rerun": True, "/v1/videos/{video_id}/resolve": False,
}


class CandidateRefusal(msgspec.Struct):
    """One offering that does not take a request."""

    provider: str
    offering: str
    reasons: list[str]


class OpenAIError(msgspec.Struct):
    """The same in the words of the OpenAI API, whose clients read nothing else."""

    message: str
    type: str
    param: str | None
    code: str


class ProblemDocument(msgspec.Struct, omit_defaults=True, kw_only=True):
    """RFC 9457. `code` is stable; `retryable`: the same request may succeed later; `charged`: the money."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str
    retryable: bool
    charged: str
    param: str | None = None
    errors: list[FieldError] = []
    error: OpenAIError
    candidates: list[CandidateRefusal] | msgspec.UnsetType = msgspec.UNSET


def document(
    problem: Problem, request: Request[Any, Any, Any], *, is_surely_refused: bool = False
) -> Response[dict[str, object]]:
    """The answer for a problem. Nothing of a refused request was charged, and the document says so.

    `is_surely_refused`: there is proof that a create was not stored, although the fault is ours.
    """
    info = CODES[problem.code]
    content: dict[str, object] = {
        "type": under_base(TYPES + problem.code),
        "title": info.title,
        "status": info.status,
        "detail": problem.detail,
        "instance": under_base(request.scope["path"]),
        "code": problem.code,
        "param": problem.param,
        "errors": problem.errors,
        "error": openai_error(problem.code, problem.detail, problem.param),
        "request_id": request_id_of(request.scope),
        "retryable": info.retryable,
        "charged": "no",
        **problem.extra,
    }
    headers = dict(problem.headers)
    if info.status in (429, 503):
        headers.setdefault("Retry-After", "1")
    if info.status == 409 and not info.retryable:
        headers["x-should-retry"] = "false"  # the OpenAI clients repeat every 409
    if not is_surely_refused and _may_buy_twice(request, info.status):
        # It was perhaps stored, and a client's retry would be a permission to buy once more.
        headers["x-should-retry"] = "false"
        content["charged"] = "unknown"
    return Response(content, status_code=info.status, headers=headers, media_type=MEDIA_TYPE)


def opening(code: Code, detail: str, base: str) -> bytes:
    """All of a refusal's document but its path and its id, without the closing brace."""
    info = CODES[code]
    return msgspec.json.encode({
        "type": base + TYPES + code, "title": info.title, "status": info.status, "detail": detail,
        "code": code, "param": None, "errors": [], "retryable": info.retryable, "charged": "no",
        "error": openai_error(code, detail, None),
    })[:-1]  # fmt: skip


def openai_error(code: Code, detail: str, param: str | None) -> OpenAIError:
    """A problem in the words of the OpenAI API."""
    status = CODES[code].status
    kind = "server_error" if status >= 500 else _OPENAI_TYPES.get(status, "invalid_request_error")
    return OpenAIError(detail, kind, param, code)


def _may_buy_twice(request: Request[Any, Any, Any], status: int) -> bool:
    if status < 500 or request.method != "POST":
        return False
    heeds_key = _SPENDING.get(str(request.scope.get("path_template")))
    return heeds_key is False or (heeds_key is True and not request.headers.get("idempotency-key"))


_SURELY_REFUSED: Final = ("overloaded", "spending_stopped")


def _on_problem(request: Request[Any, Any, Any], error: Problem) -> Response[dict[str, object]]:
    # Our own word that there is no room comes before anything is done.
    return document(error, request, is_surely_refused=error.code in _SURELY_REFUSED)


def _on_framework(request: Request[Any, Any, Any], error: HTTPException) -> Response[dict[str, object]]:
    other: Code = "invalid_request" if error.status_code < 500 else "internal_error"
    code = _FRAMEWORK.get(error.status_code, other)
    headers = {name: value for name, value in (error.headers or {}).items() if name.lower() == "allow"}
    detail, errors = _sentence(code, error, request), tuple(_field_errors(error))
    return document(Problem(code, detail, errors=errors, headers=headers), request)


def _sentence(code: Code, error: HTTPException, request: Request[Any, Any, Any]) -> str:
    match code:
        case "not_found":
            return f"There is no route {request.scope['path']}; /openapi.json lists the routes."
        case "method_not_allowed":
            return f"{request.method} is not possible here; the Allow header lists what is."
        case "internal_error":
            return _FAULT
        case _ if found := _field_errors(error):
            return f"{found[0].pointer.lstrip('?')}: {found[0].detail}"
        case _:
            return re.sub(r" for (GET|POST|DELETE|HEAD) \S+$", "", error.detail) or CODES[code].title


def _field_errors(error: HTTPException) -> list[FieldError]:
    found = error.extra if isinstance(error.extra, list) else []
    return [
        FieldError(f"?{item.get('key', '')}", str(item.get("message", "is not valid")))
        for item in found
        if isinstance(item, dict)
    ]


def _on_storage(request: Request[Any, Any, Any], error: StorageError) -> Response[dict[str, object]]:
    """Busy and short refuse before anything is done; whatever else the database says proves nothing."""
    is_refusal, telemetry = isinstance(error, StorageBusy), gateway_of(request).telemetry
    if is_refusal:
        telemetry.log.warning("request_refused", error=str(error))
    else:
        telemetry.request_failed(request_id_of(request.scope), error)
    detail = next(detail for kind, detail in _STORAGE.items() if isinstance(error, kind))
    return document(Problem("overloaded", detail), request, is_surely_refused=is_refusal)


def _on_fault(request: Request[Any, Any, Any], error: Exception) -> Response[dict[str, object]]:
    gateway_of(request).telemetry.request_failed(request_id_of(request.scope), error)
    return document(Problem("internal_error", _FAULT), request)


HANDLERS: Final[ExceptionHandlersMap] = {
    Problem: _on_problem,
    HTTPException: _on_framework,
    StorageError: _on_storage,
    Exception: _on_fault,
}


@contextmanager
def about(task: Task) -> Iterator[None]:
    """Have each Problem in here say of this video what it was `charged`."""
    try:
        yield
    except Problem as problem:
        problem.extra.setdefault("charged", task.charged)
        raise


_KEYED: Final = (400, 401, 403, 429, 503)  # what every route that needs a key may answer


def responses(*statuses: int, keyed: bool = True) -> dict[int, ResponseSpec]:
    """The problems that a route documents, by status, those of every keyed route among them."""
    titles: dict[int, str] = {}
    for code, info in CODES.items():
        titles[info.status] = "; ".join(filter(None, (titles.get(info.status), f"{code}: {info.title}")))
    spec = partial(ResponseSpec, ProblemDocument, generate_examples=False, media_type=MEDIA_TYPE)
    documented = sorted({*statuses, *(_KEYED if keyed else ())})
    return {status: spec(description=titles[status]) for status in documented}
