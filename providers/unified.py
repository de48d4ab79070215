"""The unified task API, in the dialect of AIHubMax: one create path, the model in the body.

    POST /v1/videos/generations    -> {"id": "task-unified-...", "status": "pending", "task_info": {...}}
    GET  /v1/tasks/{id}            -> {"status": ..., "progress": ..., "results": [{"url": ...}], "error": null}

Held here: what it offers, its status and error words, both calls. Not held here: HTTP (`providers.http`).

Links: the page "kling-v3-text-to-video" of https://docs.aihubmax.com, which names no host (so `base_url` must be
configured; AIHubMax's is https://api.aihubmax.com). The page lost its field names: those, the other models and the
error words are from a published catalogue of this API and the notes of an integration. Quirks:

- 4k is in the page's list of resolutions, though not in its headline: offered, the vendor has the last word.
- 5 or 10 seconds only for kling-v3. Beside shots the prompt of a t2v is left out, which is inferred.
- `completed` with null results was seen, and is not the end: `Succeeded` without a URL, asked again.
- `cancelled` is named by older specs only; no cancel call is documented. It is a failed render to us.
- Cloudflare in front refuses odd clients with status 403 and the bare text "error code: 1010": nothing got through.

Left out: kling-v2-6-video has no field for a resolution and names none, so a request could not be honoured exactly;
motion control, video edit, elements and voice creation need inputs that a request has no field for. The EvoLink
dialect of the same paths has other fields. kling-o3-image-to-video takes a prompt or shots, never both, and our
image-to-video always has a prompt: no shots there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, Literal
from urllib.parse import quote

import msgspec

from providers import spec
from providers.http import poll_error, read, refusal

CREATE_PATH: Final = "/v1/videos/generations"
TASK_PATH: Final = "/v1/tasks/"


class UnifiedOffering(spec.Offering, frozen=True, kw_only=True):
    """A row of this API and the names its model has for our fields; `shot_type` goes with shots where there is one."""

    image_field: str = "image_url"
    end_image_field: str = "image_tail_url"
    shot_type: str | None = None


_RESOLUTIONS: Final[tuple[spec.Resolution, ...]] = ("720p", "1080p", "4k")
_RATIOS: Final[tuple[spec.AspectRatio, ...]] = ("16:9", "9:16", "1:1")
_IMAGE: Final = spec.ImageLimits(forms=("url",))
_DAY: Final = 86_400
_CATALOGUE: Final = "the published catalogue of this API's models, "

OFFERINGS: Final[tuple[UnifiedOffering, ...]] = (
    UnifiedOffering(
        slug="kling-v3-text-to-video",
        model="kling-v3",
        mode="text-to-video",
        resolutions=_RESOLUTIONS,
        durations=(5, 10),
        aspect_ratios=_RATIOS,
        source="https://docs.aihubmax.com, page kling-v3-text-to-video",
        on_by_default=True,
        shots=spec.ShotLimits(),
        voice_ids_max=2,
        result_link_seconds=_DAY,
    ),
    UnifiedOffering(
        slug="kling-v3-image-to-video",
        model="kling-v3",
        mode="image-to-video",
        resolutions=_RESOLUTIONS,
        durations=(5, 10),
        aspect_ratios=(),
        source=_CATALOGUE + "kling-v3-image-to-video",
        image=_IMAGE,
        end_image=True,
        shots=spec.ShotLimits(),
        voice_ids_max=2,
        result_link_seconds=_DAY,
    ),
    UnifiedOffering(
        slug="kling-o3-text-to-video",
        model="kling-o3",
        mode="text-to-video",
        resolutions=_RESOLUTIONS,
        durations=tuple(range(3, 16)),
        aspect_ratios=_RATIOS,
        source=_CATALOGUE + "kling-o3-text-to-video",
        negative_prompt_max_chars=None,
        shots=spec.ShotLimits(),
        shot_type="customize",
        result_link_seconds=_DAY,
    ),
    UnifiedOffering(
        slug="kling-o3-image-to-video",
        model="kling-o3",
        mode="image-to-video",
        resolutions=_RESOLUTIONS,
        durations=tuple(range(3, 16)),
        aspect_ratios=(),
        source=_CATALOGUE + "kling-o3-image-to-video",
        negative_prompt_max_chars=None,
        image=_IMAGE,
        end_image=True,
        end_image_field="end_image_url",
        result_link_seconds=_DAY,
    ),
)

# Exact words; any other, in whatever case or language, is Unrecognised.
STATES: Final[Mapping[str, Literal["pending", "succeeded", "failed", "cancelled"]]] = {
    "pending": "pending",
    "processing": "pending",
    "completed": "succeeded",
    "failed": "failed",
    "cancelled": "cancelled",
}

# `code` and `type` of an HTTP error, the code first.
ERRORS: Final[Mapping[str, spec.ErrorKind]] = {
    "model_not_found": "unsupported",
    "no_compatible_channel": "unsupported",  # no channel takes this model so asked: elsewhere, waiting will not help
    "invalid_file_type": "invalid_request",
    "invalid_image_url": "invalid_request",
    "model_rule_violation": "invalid_request",
    "invalid_param": "invalid_request",
    "content_policy_violation": "content_policy",
    "invalid_request_error": "invalid_request",
    "validation_error": "invalid_request",
    "authentication_error": "auth",
    "insufficient_quota": "insufficient_credit",
    "not_found": "not_found",
    "rate_limit_error": "rate_limited",
    "server_error": "unavailable",
    "internal_error": "unavailable",
    "service_unavailable": "unavailable",
    "all_platforms_exhausted": "unavailable",
}

# `code` and `type` of the error in a failed task; anything else is `vendor_failed`.
FAILURES: Final[Mapping[str, Literal["content_policy", "insufficient_credit"]]] = {
    "content_policy_violation": "content_policy",
    "insufficient_quota": "insufficient_credit",
    "quota_exceeded": "insufficient_credit",
}


class _Created(msgspec.Struct, frozen=True):
    """Untyped on purpose: an oddity beside a good id must not cost us the id of a paid task."""

    id: object = None
    status: object = None
    task_info: object = None


class _Task(msgspec.Struct, frozen=True):
    """Untyped where dialects differ: `results` holds objects or strings, `result_data` is an object or a list."""

    status: str
    progress: object = None
    results: object = None
    result_data: object = None
    error: object = None


class UnifiedTask:
    """The adapter; see the module."""

    def __init__(self, door: spec.VendorDoor) -> None:
        self._door = door

    def call(self, request: spec.VideoRequest, offering: spec.Offering) -> spec.VendorCall:
        """The create call. Raises TypeError for a row that is not of this API."""
        if not isinstance(offering, UnifiedOffering):
            raise TypeError(f"{offering.slug} is not a row of the unified task API")
        return spec.VendorCall(CREATE_PATH, _body(request, offering))

    async def submit(self, request: spec.VideoRequest, offering: spec.Offering) -> spec.Submitted:
        """Send the create call once. A success without a usable id is `unknown`: there may be a paid task."""
        call = self.call(request, offering)
        reply = await self._door.submit(call.path, call.body)
        if not 200 <= reply.status < 300:
            raise _blocked(reply) or refusal(reply, self._door, ERRORS)
        created = read(reply.body, _Created)
        task_id = spec.usable_task_id(created.id)
        if task_id is None:
            raise spec.VendorError("junk", "unknown", "success without a usable task id", status=reply.status)
        info = created.task_info if isinstance(created.task_info, dict) else {}
        return spec.Submitted(
            vendor_task_id=task_id,
            ref={"task_id": task_id},
            raw_status=self._door.redact(created.status) if isinstance(created.status, str) else None,
            estimate_seconds=_number(info.get("estimated_time")) or None,
        )

    async def poll(self, ref: spec.Ref) -> spec.Progress:
        """Ask for the task. Raises VendorError when no readable answer came."""
        reply = await self._door.ask(TASK_PATH + quote(ref["task_id"], safe=""))
        if not 200 <= reply.status < 300:
            raise poll_error(reply, self._door, ERRORS)
        return _progress(read(reply.body, _Task), self._door)


def _body(request: spec.VideoRequest, offering: UnifiedOffering) -> dict[str, object]:
    """Only what was asked for, as the page wants it, with `generate_audio` always said."""
    shots = [{"prompt": shot.prompt, "duration": shot.duration} for shot in request.shots or ()]
    fields: dict[str, object] = {
        "model": offering.slug,
        offering.image_field: request.image,
        offering.end_image_field: request.end_image,
        "prompt": request.prompt,
        "multi_prompt": shots or None,
        "shot_type": offering.shot_type if shots else None,
        "negative_prompt": request.negative_prompt,
        "resolution": request.resolution,
        "duration": request.duration,
        "aspect_ratio": request.aspect_ratio,
        "generate_audio": request.audio,
        "voice_ids": list(request.voice_ids) if request.voice_ids else None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _blocked(reply: spec.Reply) -> spec.VendorError | None:
    """Asserted to be a refusal, though it is no JSON: Cloudflare's own text, so the API never saw the request."""
    if reply.status != 403 or reply.body.strip() != b"error code: 1010":
        return None
    message = "Cloudflare refused our client (error code 1010)"
    return spec.VendorError("permission", "rejected", message, status=403, reason="error code: 1010")


def _progress(task: _Task, door: spec.VendorDoor) -> spec.Progress:
    state = STATES.get(task.status)
    percent = _number(task.progress)
    progress = None if percent is None else round(min(100.0, max(0.0, percent)))
    if state == "pending":
        return spec.Pending(raw_status=task.status, progress=progress)
    if state == "succeeded":
        return spec.Succeeded(raw_status=task.status, url=_url(task))
    if state is None:
        return spec.Unrecognised(raw_status=door.redact(task.status), progress=progress)
    return _failed(task, door, "cancelled at the vendor" if state == "cancelled" else "the vendor gave no reason")


def _url(task: _Task) -> str | None:
    """The first link, wherever the dialects put it."""
    for entries, key in ((task.results, "url"), (task.result_data, "video_url")):
        for entry in entries if isinstance(entries, list) else [entries]:
            link = entry.get(key) if isinstance(entry, dict) else entry
            if isinstance(link, str) and link:
                return link
    return None
