"""The two protocols as the simulated vendors speak them, written from the vendors' pages.

Shares no code with the adapters: a mistake made twice would not be found. Not held here: what is true
(`vendor`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from email.utils import formatdate
from typing import Final, TypeAlias

import msgspec

LINK: Final = "https://files.example/{}.mp4"
_HTML: Final = b"<html><body>It works!</body></html>"

# Word: the status, the reason in the v3 protocol, the code in the unified one.
ERRORS: Final[Mapping[str, tuple[int, str, str]]] = {
    "error": (500, "SERVICE_NOT_AVAILABLE", "internal_error"),
    "gateway_timeout": (504, "SERVICE_NOT_AVAILABLE", "server_error"),
    "busy": (503, "SERVICE_NOT_AVAILABLE", "service_unavailable"),
    "throttled": (429, "RATE_LIMIT_EXCEEDED", "rate_limit_error"),
    "bad_key": (401, "INVALID_API_KEY", "authentication_error"),
    "no_credit": (402, "NOT_ENOUGH_BALANCE", "insufficient_quota"),
    "forbidden": (403, "ACCESS_DENY", "permission_error"),
    "invalid": (400, "INVALID_REQUEST_BODY", "invalid_request_error"),
    "bad_content": (400, "ILLEGAL_PROMPT", "content_policy_violation"),
    "gone": (404, "API_NOT_FOUND", "model_not_found"),
    "missing": (404, "TASK_NOT_FOUND", "not_found"),
}
_JUNK: Final[Mapping[str, bytes]] = {"html": _HTML, "broken_json": b'{"task_id": "lo', "empty": b""}
_BAD_IDS: Final[Mapping[str, object]] = {"no_id": None, "odd_id": "../../v1/keys\n"}


class Said(msgspec.Struct, frozen=True):
    """An HTTP answer."""

    status: int
    body: bytes
    retry_after: str | None = None


Words: TypeAlias = Mapping[str, str]
_V3_WORDS: Final = {
    "pending": "TASK_STATUS_PROCESSING", "done": "TASK_STATUS_SUCCEED", "failed": "TASK_STATUS_FAILED",
}
_UNIFIED_WORDS: Final = {"pending": "processing", "done": "completed", "failed": "failed"}


def _v3_created(task_id: object) -> object:
    return {} if task_id is None else {"task_id": task_id}


def _v3_error(reason: str, code: str) -> object:
    return {"code": 1, "reason": reason, "message": f"refused: {reason}"}


def _v3_task(task_id: str, word: str, progress: int, link: str | None, failure: str | None) -> object:
    reason = {"content_policy": "illegal prompt", None: ""}.get(failure, "the render broke")
    task = {"task_id": task_id, "status": word, "progress_percent": progress, "reason": reason}
    return {"task": task, "videos": [] if link is None else [{"video_url": link, "video_url_ttl": "3600"}]}


def _unified_created(task_id: object) -> object:
    return {"id": task_id, "status": "pending", "task_info": {"estimated_time": 60}}


def _unified_error(reason: str, code: str) -> object:
    return {"error": {"message": f"refused: {code}", "type": code, "code": code}}


def _unified_task(task_id: str, word: str, progress: int, link: str | None, failure: str | None) -> object:
    task: dict[str, object] = {"id": task_id, "status": word, "progress": progress}
    if link is not None:
        task["results"] = [{"url": link}]
    if failure is not None:
        code = {"content_policy": "content_policy_violation"}.get(failure, "render_error")
        task["error"] = {"code": code, "message": "the render broke"}
    return task


class Tongue:
    """One protocol: how each thing is said in it."""

    def __init__(
        self, words: Words, created: Callable[[object], object], error: Callable[[str, str], object],
        task: Callable[[str, str, int, str | None, str | None], object],
    ) -> None:
        self._words, self._created, self._error, self._task = words, created, error, task

    def created(self, task_id: str) -> Said:
        """Accepted, as this task."""
        return Said(200, msgspec.json.encode(self._created(task_id)))

    def spoiled_created(self, word: str, retry_after: str | None) -> Said:
        """An answer to a submit that is no plain acceptance."""
        if word in _BAD_IDS:
            return Said(200, msgspec.json.encode(self._created(_BAD_IDS[word])))
        return self._spoiled(word, retry_after)

    def spoiled_task(self, word: str, retry_after: str | None) -> Said:
        """An answer to a poll that tells nothing of the task."""
        if word == "other_task":
            return self._say("done", "somebody-elses", link=LINK.format("somebody-elses"))
        return self._spoiled(word, retry_after)

    def missing(self) -> Said:
        """No such task."""
        return self._spoiled("missing", None)

    def pending(self, task_id: str, progress: int) -> Said:
        """Still rendering."""
        return self._say("pending", task_id, progress=progress)

    def done(self, task_id: str, *, has_link: bool) -> Said:
        """Finished, with a link or without."""
        return self._say("done", task_id, progress=100, link=LINK.format(task_id) if has_link else None)

    def failed(self, task_id: str, failure: str) -> Said:
        """The render failed."""
        return self._say("failed", task_id, failure=failure)

    def bent(self, said: Said, word: str) -> Said:
        """The same with a status word that is in no table, if so planned."""
        body = said.body
        for known in self._words.values():
            if word == "unknown_word":
                body = body.replace(f'"{known}"'.encode(), b'"DEFROSTING"')
            elif word == "other_case":
                body = body.replace(f'"{known}"'.encode(), f'"{known.title()}"'.encode())
        return Said(said.status, body)

    @staticmethod
    def date(at: float) -> str:
        """An HTTP date."""
        return formatdate(at, usegmt=True)

    def _say(
        self, word: str, task_id: str, *, progress: int = 0, link: str | None = None,
        failure: str | None = None,
    ) -> Said:
        task = self._task(task_id, self._words[word], progress, link, failure)
        return Said(200, msgspec.json.encode(task))

    def _spoiled(self, word: str, retry_after: str | None) -> Said:
        if word in _JUNK:
            return Said(200, _JUNK[word])
        if word not in ERRORS:
            return Said(200, b"")
        status, reason, code = ERRORS[word]
        return Said(status, msgspec.json.encode(self._error(reason, code)), retry_after)


V3: Final = Tongue(_V3_WORDS, _v3_created, _v3_error, _v3_task)
UNIFIED: Final = Tongue(_UNIFIED_WORDS, _unified_created, _unified_error, _unified_task)
