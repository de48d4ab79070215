"""The three vendors' words: routes, statuses, bodies and errors, as their pages and documents have them.

Not held here: the way of a request, which they share (`vendor`).
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.sandbox import strictness
from gateway.sandbox.catalogue import Phase
from gateway.sandbox.distortions import View
from gateway.sandbox.renders import Order, Task
from gateway.sandbox.strictness import RefusedError
from gateway.sandbox.vendor import Vendor, asked_for
from gateway.sandbox.wire import Answer, Request

_FRAMES = {"16:9": (16, 9), "9:16": (9, 16), "1:1": (1, 1)}
_TIERS = {"std": "720p", "pro": "1080p", "4k": "4k"}
_V3_WORDS = {"queued": "QUEUED", "processing": "PROCESSING", "succeeded": "SUCCEED", "failed": "FAILED"}
_UNIFIED_WORDS = {
    "queued": "pending",
    "processing": "processing",
    "succeeded": "completed",
    "failed": "failed",
}

# HTTP status and reason, from novita.ai's table of error codes, which the platform shares.
_V3_ERRORS: dict[str, tuple[int, str]] = {
    "invalid": (400, "INVALID_REQUEST_BODY"),
    "rule": (400, "INVALID_REQUEST_BODY"),
    "image_format": (400, "INVALID_IMAGE_FORMAT"),
    "image_bytes": (400, "IMAGE_FILE_EXCEEDS_MAX_SIZE"),
    "image_size": (400, "INVALID_IMAGE_SIZE"),
    "no_key": (400, "MISSING_API_KEY"),
    "bad_key": (403, "INVALID_API_KEY"),
    "unknown_path": (404, "API_NOT_FOUND"),
    "unknown_slug": (404, "API_NOT_FOUND"),
    "not_found": (404, "TASK_NOT_FOUND"),
    "policy": (400, "ILLEGAL_PROMPT"),
    "rate_limited": (429, "RATE_LIMIT_EXCEEDED"),
    "no_credit": (400, "BILLING_BALANCE_NOT_ENOUGH"),
    "permission": (403, "FEATURE_NOT_ALLOWED"),
    "capacity": (429, "RATE_LIMIT_EXCEEDED"),
    "server_error": (500, "CREATE_TASK_FAILED"),
    "unavailable": (503, "SERVICE_NOT_AVAILABLE"),
}

# HTTP status, type and code, from docs.aihubmax.com and a public integration's notes.
_UNIFIED_ERRORS: dict[str, tuple[int, str, str]] = {
    "invalid": (400, "invalid_request_error", "invalid_request"),
    "rule": (422, "validation_error", "invalid_param"),
    "no_key": (401, "authentication_error", "invalid_api_key"),
    "bad_key": (401, "authentication_error", "invalid_api_key"),
    "unknown_path": (404, "not_found", "not_found"),
    "unknown_slug": (422, "validation_error", "model_not_found"),
    "not_found": (404, "not_found", "task_not_found"),
    "policy": (400, "invalid_request_error", "content_policy_violation"),
    "rate_limited": (429, "rate_limit_error", "rate_limit_exceeded"),
    "no_credit": (402, "insufficient_quota", "insufficient_quota"),
    "permission": (403, "permission_error", "permission_denied"),
    "capacity": (422, "validation_error", "no_compatible_channel"),
    "server_error": (500, "server_error", "internal_error"),
    "unavailable": (503, "service_unavailable", "all_platforms_exhausted"),
}


class V3Async(Vendor):
    """highwayapi and myrouter: one path per slug, TASK_STATUS words, errors with a reason."""

    link_seconds = 3600.0

    def _find(self, request: Request) -> tuple[Phase, str]:
        match request.method, request.path.removeprefix("/v3/async/"):
            case "GET", "task-result":
                return "poll", request.query.get("task_id", "")
            case "POST", slug if slug in self.sells:
                return "submit", slug
        raise RefusedError("unknown_path", f"{request.method} {request.path[:100]} is not known")

    def _order(self, slug: str, body: Mapping[str, Any]) -> Order:
        frames = [strictness.frame(body[name]) for name in ("image", "end_image") if name in body]
        return Order(
            slug=slug,
            prompt=asked_for(body),
            resolution=_TIERS[slug.split("-")[2]],
            frame=frames[0] if frames else _FRAMES[body.get("aspect_ratio", "16:9")],
            duration=int(body.get("duration", 5)),
            audio=body.get("sound", False),
        )

    def _new_id(self) -> str:
        return str(uuid.UUID(int=self.world.random.getrandbits(128), version=4))

    def _created(self, task: Task) -> Answer:
        return _json(200, {"task_id": task.id})

    def _told(self, task: Task, view: View, links: list[str] | None) -> Answer:
        told = {
            "task_id": task.id,
            "task_type": task.order.slug.upper().replace("-", "_").replace(".", "_"),
            "status": f"TASK_STATUS_{_V3_WORDS[view.state]}",
            "reason": view.reason,
            "eta": math.ceil(view.eta_seconds),
            "progress_percent": view.progress,
        }
        ttl = str(int(self.lifetime))
        videos = [{"video_url": link, "video_url_ttl": ttl, "video_type": "mp4"} for link in links or ()]
        body: dict[str, object] = {"extra": {}, "task": told, "images": [], "audios": []}
        return _json(200, body if links is None else body | {"videos": videos})

    def _error(self, kind: str, args: Mapping[str, str | int | float]) -> Answer:
        usual, reason = _V3_ERRORS[kind]
        status = int(args.get("status") or usual)
        body: dict[str, object] = {
            "code": status,
            "reason": args.get("reason") or reason,
            "message": args.get("message") or kind.replace("_", " "),
            "metadata": {},
        }
        return _json(status, body, args)


class Unified(Vendor):
    """The unified task API: one path for all models, lower-case statuses, errors with a type."""

    link_seconds = 86400.0

    def _find(self, request: Request) -> tuple[Phase, str]:
        if (request.method, request.path) == ("POST", "/v1/videos/generations"):
            return "submit", ""
        if request.method == "GET" and request.path.startswith("/v1/tasks/"):
            return "poll", request.path.removeprefix("/v1/tasks/")
        raise RefusedError("unknown_path", f"{request.method} {request.path[:100]} is not known")

    def _order(self, slug: str, body: Mapping[str, Any]) -> Order:
        return Order(
            slug=slug,
            prompt=asked_for(body),
            resolution=body.get("resolution", "720p"),
            frame=_FRAMES[body.get("aspect_ratio", "16:9")],
            duration=int(body.get("duration", 5)),
            audio=body.get("generate_audio", slug == "kling-v2-6-video"),
        )

    def _new_id(self) -> str:
        tail = "".join(self.world.random.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=8))
        return f"task-unified-{int(self.world.clock.time())}-{tail}"

    def _created(self, task: Task) -> Answer:
        view = View(state="queued", progress=0, eta_seconds=task.render_seconds)
        return _json(200, self._task(task, view))

    def _told(self, task: Task, view: View, links: list[str] | None) -> Answer:
        results = None if links is None else [{"url": link, "content_type": "video/mp4"} for link in links]
        failed = view.state == "failed"
        error = {"code": view.code, "message": view.reason, "type": "task_error"} if failed else None
        return _json(200, self._task(task, view) | {"results": results, "error": error})

    def _error(self, kind: str, args: Mapping[str, str | int | float]) -> Answer:
        status, type_, code = _UNIFIED_ERRORS[kind]
        trace = f"{self.world.random.getrandbits(64):016x}"
        error = {
            "message": f"{args.get('message') or kind.replace('_', ' ')} (request_id: {trace})",
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
            "status": _UNIFIED_WORDS[view.state],
            "task_info": {"can_cancel": True, "estimated_time": math.ceil(view.eta_seconds)},
            "type": "video",
        }


VENDORS: dict[str, type[Vendor]] = {"highwayapi": V3Async, "myrouter": V3Async, "unified": Unified}


def _json(status: int, body: object, args: Mapping[str, str | int | float] | None = None) -> Answer:
    hint = str((args or {}).get("retry_after", ""))
    headers = (("content-type", "application/json"), *((("retry-after", hint),) if hint else ()))
    return Answer(status=status, headers=headers, body=msgspec.json.encode(body))
