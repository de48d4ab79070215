"""The three vendors' words: routes, keys, statuses, bodies and errors, as their pages and public documents have them.

Not held here: what is a valid request (`strictness`), what becomes of an accepted one (`renders`), what goes wrong
(`faults`).
"""

from __future__ import annotations

import math
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.sandbox import faults, strictness
from gateway.sandbox.distortions import View
from gateway.sandbox.faults import Directives, Phase
from gateway.sandbox.renders import Order, Task, World
from gateway.sandbox.strictness import Refused
from gateway.sandbox.wire import Answer, Call, Request, Send

_FRAMES = {"16:9": (16, 9), "9:16": (9, 16), "1:1": (1, 1)}
_TIERS = {"std": "720p", "pro": "1080p", "4k": "4k"}

# kind: HTTP status and reason at the v3 async vendors, HTTP status, type and code at the unified API, a sentence.
_ERRORS: dict[str, tuple[tuple[int, str], tuple[int, str, str], str]] = {
    "invalid": ((400, "INVALID_REQUEST_BODY"), (400, "invalid_request_error", "invalid_request"), "bad request body"),
    "rule": ((400, "INVALID_REQUEST_BODY"), (422, "validation_error", "invalid_param"), "bad parameter"),
    "image_format": ((400, "INVALID_IMAGE_FORMAT"), (422, "validation_error", "invalid_image_url"), "bad image"),
    "image_bytes": ((400, "IMAGE_FILE_EXCEEDS_MAX_SIZE"), (413, "invalid_request_error", "too_large"), "large image"),
    "image_size": ((400, "INVALID_IMAGE_SIZE"), (422, "validation_error", "invalid_image_url"), "unfit image"),
    "no_key": ((400, "MISSING_API_KEY"), (401, "authentication_error", "invalid_api_key"), "no api key"),
    "bad_key": ((403, "INVALID_API_KEY"), (401, "authentication_error", "invalid_api_key"), "invalid api key"),
    "unknown_path": ((404, "API_NOT_FOUND"), (404, "not_found", "not_found"), "no such api"),
    "unknown_slug": ((404, "API_NOT_FOUND"), (422, "validation_error", "model_not_found"), "no such model"),
    "not_found": ((404, "TASK_NOT_FOUND"), (404, "not_found", "task_not_found"), "no such task"),
    "policy": ((400, "ILLEGAL_PROMPT"), (400, "invalid_request_error", "content_policy_violation"), "illegal prompt"),
    "rate_limited": ((429, "RATE_LIMIT_EXCEEDED"), (429, "rate_limit_error", "rate_limit_exceeded"), "slow down"),
    "no_credit": ((400, "BILLING_BALANCE_NOT_ENOUGH"), (402, "insufficient_quota", "insufficient_quota"), "no balance"),
    "permission": ((403, "FEATURE_NOT_ALLOWED"), (403, "permission_error", "permission_denied"), "not allowed"),
    "capacity": ((429, "RATE_LIMIT_EXCEEDED"), (422, "validation_error", "no_compatible_channel"), "server overload"),
    "server_error": ((500, "CREATE_TASK_FAILED"), (500, "server_error", "internal_error"), "something went wrong"),
    "unavailable": ((503, "SERVICE_NOT_AVAILABLE"), (503, "service_unavailable", "all_platforms_exhausted"), "closed"),
}


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What to answer, and the wrong way to send it, if one was chosen."""

    answer: Answer
    send: Send | None = None
    call: Call = Call(args={})


class Vendor(ABC):
    """One simulated vendor: the way of a request, which all share, around the words, which they do not."""

    link_seconds: float

    def __init__(self, name: str, world: World) -> None:
        self.name, self.world = name, world
        self.sells = strictness.validators(name)

    def exchange(self, request: Request) -> Outcome:
        """Answer one request whose path begins after the vendor's prefix."""
        try:
            phase, name = self.find(request)
            self._check_key(request.headers.get("authorization", ""))
            return self._submit(request, name) if phase == "submit" else self._poll(request, name)
        except Refused as refused:
            return Outcome(answer=self.error(refused.kind, {"message": refused.message}))

    def finish(self, struck: list[tuple[faults.Fault, Call]], answer: Answer) -> Outcome:
        """The answer as the faults leave it. Of several wrong ways to send it the last one counts."""
        send, sent_by = None, Call(args={})
        for fault, call in struck:
            if fault.error is not None:
                answer = self.error(fault.error, call.args)
            elif fault.bend is not None:
                answer = fault.bend(answer, call)
            elif fault.send is not None:
                send, sent_by = fault.send, call
        return Outcome(answer=answer, send=send, call=sent_by)

    def _check_key(self, header: str) -> None:
        scheme, _, key = header.partition(" ")
        if not key.strip():
            raise Refused("no_key", "no Authorization: Bearer header")
        if scheme.lower() != "bearer" or key.strip() != self.world.settings.key:
            raise Refused("bad_key", "the key is not accepted")

    def _submit(self, request: Request, slug: str) -> Outcome:
        body = _decoded(request)
        try:
            wishes = faults.directives(_prompt(body))
        except ValueError as error:
            raise Refused("invalid", f"directive: {error}") from None
        previous = self.world.previous_id(self.name)
        struck = faults.take([*self.world.armed, *wishes.faults], self.name, "submit", previous)
        if not all(fault.works for fault, _ in struck):
            return self.finish(struck, Answer(status=200, headers=(), body=b""))
        try:
            answer = self.created(self._accept(slug, body, wishes))
        except Refused as refused:
            answer = self.error(refused.kind, {"message": refused.message})
        return self.finish(struck, answer)

    def _accept(self, slug: str, body: object, wishes: Directives) -> Task:
        if not isinstance(body, dict):
            raise Refused("invalid", "body: not a JSON object")
        slug = slug or str(body.get("model"))
        if slug not in self.sells:
            raise Refused("unknown_slug", f"{slug[:100]} is not known")
        strictness.check(self.sells[slug], body)
        return self.world.accept(self.name, self.new_id(), self.order(slug, body), wishes)

    def _poll(self, request: Request, task_id: str) -> Outcome:
        task = self.world.tasks.get((self.name, task_id))
        struck = faults.take([*self.world.armed, *(task.faults if task else ())], self.name, "poll")
        if task is None:
            return self.finish(struck, self.error("not_found", {}))
        view = self.world.view(task)
        for fault, call in struck:
            view = view if fault.retell is None else fault.retell(view, call)
        seconds = self.lifetime if view.link_seconds is None else view.link_seconds
        link = self.world.link(task, seconds, dead=view.link_dead)
        origin = f"http://{request.headers.get('host', '')}"
        links = None if view.videos is None else [origin + link] * view.videos
        return self.finish(struck, self.told(task, view, links))

    @property
    def lifetime(self) -> float:
        """Seconds a result link lives, as the vendor says."""
        chosen = self.world.settings.link_seconds
        return self.link_seconds if chosen is None else chosen

    @abstractmethod
    def find(self, request: Request) -> tuple[Phase, str]:
        """The phase, and the slug (or nothing, where the body has it) or the task id. Raises Refused."""

    @abstractmethod
    def order(self, slug: str, body: Mapping[str, Any]) -> Order:
        """What a valid body buys, defaults filled in. Raises Refused for an unfit image."""

    @abstractmethod
    def new_id(self) -> str:
        """A task id in the vendor's form."""

    @abstractmethod
    def created(self, task: Task) -> Answer:
        """The answer to an accepted create."""

    @abstractmethod
    def told(self, task: Task, view: View, links: list[str] | None) -> Answer:
        """The answer to a poll."""

    @abstractmethod
    def error(self, kind: str, args: Mapping[str, str | int | float]) -> Answer:
        """The vendor's own error body; `args` may override `status`, `reason`, `message`, and add `retry_after`."""


class V3Async(Vendor):
    """highwayapi and myrouter: one path per slug, TASK_STATUS words, errors with a reason."""

    link_seconds = 3600.0
    _words = {"queued": "QUEUED", "processing": "PROCESSING", "succeeded": "SUCCEED", "failed": "FAILED"}

    def find(self, request: Request) -> tuple[Phase, str]:
        match request.method, request.path.removeprefix("/v3/async/"):
            case "GET", "task-result":
                return "poll", request.query.get("task_id", "")
            case "POST", slug if slug in self.sells:
                return "submit", slug
        raise Refused("unknown_path", f"{request.method} {request.path[:100]} is not known")

    def order(self, slug: str, body: Mapping[str, Any]) -> Order:
        frames = [strictness.frame(body[name]) for name in ("image", "end_image") if name in body]
        return Order(
            slug=slug,
            prompt=_prompt(body),
            resolution=_TIERS[slug.split("-")[2]],
            frame=frames[0] if frames else _FRAMES[body.get("aspect_ratio", "16:9")],
            duration=int(body.get("duration", 5)),
            audio=body.get("sound", False),
        )

    def new_id(self) -> str:
        return str(uuid.UUID(int=self.world.random.getrandbits(128), version=4))

    def created(self, task: Task) -> Answer:
        return _json(200, {"task_id": task.id})

    def told(self, task: Task, view: View, links: list[str] | None) -> Answer:
        told = {
            "task_id": task.id,
            "task_type": task.order.slug.upper().replace("-", "_").replace(".", "_"),
            "status": f"TASK_STATUS_{self._words[view.state]}",
            "reason": view.reason,
            "eta": math.ceil(view.eta_seconds),
            "progress_percent": view.progress,
        }
        ttl = str(int(self.lifetime))
        videos = [{"video_url": link, "video_url_ttl": ttl, "video_type": "mp4"} for link in links or ()]
        body: dict[str, object] = {"extra": {}, "task": told, "images": [], "audios": []}
        return _json(200, body if links is None else body | {"videos": videos})

    def error(self, kind: str, args: Mapping[str, str | int | float]) -> Answer:
        (status, reason), _, message = _ERRORS[kind]
        status = int(args.get("status") or status)
        body = {
            "code": status,
            "reason": args.get("reason") or reason,
            "message": args.get("message") or message,
            "metadata": {},
        }
        return _json(status, body, args)


class Unified(Vendor):
    """The unified task API: one path for all models, lower-case statuses, errors with a type."""

    link_seconds = 86400.0
    _words = {"queued": "pending", "processing": "processing", "succeeded": "completed", "failed": "failed"}

    def find(self, request: Request) -> tuple[Phase, str]:
        if (request.method, request.path) == ("POST", "/v1/videos/generations"):
            return "submit", ""
        if request.method == "GET" and request.path.startswith("/v1/tasks/"):
            return "poll", request.path.removeprefix("/v1/tasks/")
        raise Refused("unknown_path", f"{request.method} {request.path[:100]} is not known")

    def order(self, slug: str, body: Mapping[str, Any]) -> Order:
        return Order(
            slug=slug,
            prompt=_prompt(body),
            resolution=body.get("resolution", "720p"),
            frame=_FRAMES[body.get("aspect_ratio", "16:9")],
            duration=int(body.get("duration", 5)),
            audio=body.get("generate_audio", slug == "kling-v2-6-video"),
        )

    def new_id(self) -> str:
        tail = "".join(self.world.random.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=8))
        return f"task-unified-{int(self.world.clock.time())}-{tail}"

    def created(self, task: Task) -> Answer:
        view = View(state="queued", progress=0, eta_seconds=task.render_seconds)
        return _json(200, self._task(task, view))

    def told(self, task: Task, view: View, links: list[str] | None) -> Answer:
        results = None if links is None else [{"url": link, "content_type": "video/mp4"} for link in links]
        failed = view.state == "failed"
        error = {"code": view.code, "message": view.reason, "type": "task_error"} if failed else None
        return _json(200, self._task(task, view) | {"results": results, "error": error})

    def error(self, kind: str, args: Mapping[str, str | int | float]) -> Answer:
        _, (status, type_, code), message = _ERRORS[kind]
        trace = f"{self.world.random.getrandbits(64):016x}"
        error = {
            "message": f"{args.get('message') or message} (request_id: {trace})",
            "type": type_,
            "code": args.get("reason") or code,
        }
        return _json(int(args.get("status") or status), {"error": error}, args)

    def _task(self, task: Task, view: View) -> dict[str, object]:
        return {
            "created": int(task.created_at),
            "id": task.id,
            "model": task.order.slug,
            "object": "video.generation.task",
            "progress": int(view.progress),
            "status": self._words[view.state],
            "task_info": {"can_cancel": True, "estimated_time": math.ceil(view.eta_seconds)},
            "type": "video",
        }


VENDORS: dict[str, type[Vendor]] = {"highwayapi": V3Async, "myrouter": V3Async, "unified": Unified}


def _json(status: int, body: object, args: Mapping[str, str | int | float] | None = None) -> Answer:
    hint = str((args or {}).get("retry_after", ""))
    headers = (("content-type", "application/json"), *((("retry-after", hint),) if hint else ()))
    return Answer(status=status, headers=headers, body=msgspec.json.encode(body))


def _decoded(request: Request) -> object:
    """The body, or None where there is none to read; what that means is decided when the vendor would look at it."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return None
    try:
        return msgspec.json.decode(request.body)
    except (msgspec.DecodeError, RecursionError):
        return None


def _prompt(body: object) -> str:
    """All that a body asks to see, its shots included; empty where that has no such form."""
    if not isinstance(body, dict):
        return ""
    shots = body.get("multi_prompt")
    texts = [shot.get("prompt") for shot in shots if isinstance(shot, dict)] if isinstance(shots, list) else []
    return " / ".join(text for text in [body.get("prompt"), *texts] if isinstance(text, str) and text)
