"""The unified task API, in the dialect of AIHubMax: one create path, the model in the body.

    POST /v1/videos/generations    -> {"id": "task-unified-...", "status": "pending", "task_info": {...}}
    GET  /v1/tasks/{id}            -> {"status": ..., "progress": ..., "results": [{"url": ...}], "error": {}}

Held here: what it offers, its status and error words, both calls. Not held here: HTTP (`providers.http`).

Links: page "kling-v3-text-to-video" of https://docs.aihubmax.com. It names no host, so `base_url` has to be
configured (AIHubMax's is https://api.aihubmax.com), and it lost its field names: those, the other models and
most error words are from a published catalogue of this API and an integration's notes;
`content_policy_violation` and `quota_exceeded` are those of EvoLink, a sibling. Quirks:

- 4k is in the page's list of resolutions, though not in its headline: offered, the vendor has the last word.
- kling-v3 takes 5 or 10 seconds only. Beside shots a t2v prompt is left out, which is inferred.
- `completed` without results was seen and is not the end: `Succeeded` without a URL, to be asked again.
- `cancelled` is a word of older specs; no cancel call is documented. To us it is a failed render.
- Cloudflare in front refuses odd clients by status 403 and the bare text "error code: 1010".
- kling-o3-image-to-video takes a prompt or shots, our image-to-video always has a prompt: no shots there.

Left out: kling-v2-6-video (its resolution is not known, so none can be promised); motion control, video edit,
kling-o3-reference-to-video, elements, voices (a request has no field for their inputs); EvoLink, which has
other fields on the same paths.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal, TypeVar
from urllib.parse import quote

import msgspec

from providers import spec
from providers.http import check_same_task, hint, poll_error, read, refusal

T = TypeVar("T")
CREATE_PATH: Final = "/v1/videos/generations"
TASK_PATH: Final = "/v1/tasks/"

_RATIOS: Final[tuple[spec.AspectRatio, ...]] = ("16:9", "9:16", "1:1")
_BY_URL: Final = spec.ImageLimits(forms=("url",))
_THREE_TO_15: Final = tuple(range(3, 16))
_CATALOGUE: Final = "a published catalogue of this API's models: "


class UnifiedOffering(spec.Offering, frozen=True, kw_only=True):
    """A row of this API, and the names its model has for our fields; a `shot_type` goes with shots."""

    resolutions: tuple[spec.Resolution, ...] = ("720p", "1080p", "4k")
    aspect_ratios: tuple[spec.AspectRatio, ...] = ()
    result_link_seconds: int = 86_400
    image_field: str = "image_url"
    end_image_field: str = "image_tail_url"
    shot_type: str | None = None


OFFERINGS: Final[tuple[UnifiedOffering, ...]] = (
    UnifiedOffering(
        slug="kling-v3-text-to-video", model="kling-v3", mode="text-to-video", durations=(5, 10),
        aspect_ratios=_RATIOS, shots=spec.ShotLimits(), voice_ids_max=2,
        source="https://docs.aihubmax.com, page kling-v3-text-to-video", on_by_default=True,
    ),
    UnifiedOffering(
        slug="kling-v3-image-to-video", model="kling-v3", mode="image-to-video", durations=(5, 10),
        image=_BY_URL, end_image=True, shots=spec.ShotLimits(), voice_ids_max=2,
        source=f"{_CATALOGUE}kling-v3-image-to-video",
    ),
    UnifiedOffering(
        slug="kling-o3-text-to-video", model="kling-o3", mode="text-to-video", durations=_THREE_TO_15,
        aspect_ratios=_RATIOS, negative_prompt_max_chars=None, shots=spec.ShotLimits(), shot_type="customize",
        source=f"{_CATALOGUE}kling-o3-text-to-video",
    ),
    UnifiedOffering(
        slug="kling-o3-image-to-video", model="kling-o3", mode="image-to-video", durations=_THREE_TO_15,
        negative_prompt_max_chars=None, image=_BY_URL, end_image=True, end_image_field="end_image_url",
        source=f"{_CATALOGUE}kling-o3-image-to-video",
    ),
)

# Exact words; any other, in whatever case or language, is Unrecognised.
STATES: Final[Mapping[str, Literal["pending", "succeeded", "failed", "cancelled"]]] = {
    "pending": "pending", "processing": "pending",
    "completed": "succeeded",
    "failed": "failed", "cancelled": "cancelled",
}

# `code` and `type` of an HTTP error. Without a compatible channel nothing there takes the request: elsewhere.
_REASONS: Final[Mapping[spec.ErrorKind, tuple[str, ...]]] = {
    "invalid_request": (
        "invalid_request_error", "validation_error", "invalid_param", "invalid_file_type",
        "invalid_image_url", "model_rule_violation",
    ),
    "content_policy": ("content_policy_violation",),
    "unsupported": ("model_not_found", "no_compatible_channel"),
    "auth": ("authentication_error",),
    "insufficient_credit": ("insufficient_quota",),
    "not_found": ("not_found",),
    "rate_limited": ("rate_limit_error",),
    "unavailable": ("server_error", "internal_error", "service_unavailable", "all_platforms_exhausted"),
}
ERRORS: Final = {word: kind for kind, words in _REASONS.items() for word in words}

# `code` and `type` of the error in a failed task; anything else is `vendor_failed`.
FAILURES: Final[Mapping[str, Literal["content_policy", "insufficient_credit"]]] = {
    "content_policy_violation": "content_policy",
    "insufficient_quota": "insufficient_credit", "quota_exceeded": "insufficient_credit",
}


class _Info(msgspec.Struct, frozen=True):
    estimated_time: Annotated[float, msgspec.Meta(gt=0)] | None = None


class _Created(msgspec.Struct, frozen=True):
    """Raw on purpose: an oddity beside a good id must not cost us the id of a paid task."""

    id: msgspec.Raw = msgspec.Raw()
    status: msgspec.Raw = msgspec.Raw()
    task_info: msgspec.Raw = msgspec.Raw()


class _Link(msgspec.Struct, frozen=True):
    url: str | None = None
    video_url: str | None = None


class _Reason(msgspec.Struct, frozen=True):
    code: str | int | None = None
    type: str | None = None
    message: str | None = None


class _Task(msgspec.Struct, frozen=True):
    """Raw where dialects differ, or where an oddity must not spoil the rest."""

    status: str
    id: msgspec.Raw = msgspec.Raw()
    progress: msgspec.Raw = msgspec.Raw()
    results: msgspec.Raw = msgspec.Raw()
    result_data: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()


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
        task_id = spec.usable_task_id(hint(created.id, str))
        if task_id is None:
            raise spec.VendorError("junk", "unknown", "success without a usable task id", status=reply.status)
        raw_status = self._door.redact(hint(created.status, str) or "") or None
        estimate = (hint(created.task_info, _Info) or _Info()).estimated_time
        return spec.Submitted(vendor_task_id=task_id, ref=self.ref_of(task_id),
                              raw_status=raw_status, estimate_seconds=estimate)

    def ref_of(self, vendor_task_id: str) -> spec.Ref:
        """All that a poll needs."""
        return {"task_id": vendor_task_id}

    async def poll(self, ref: spec.Ref) -> spec.Progress:
        """Ask for the task. Raises VendorError when no readable answer came."""
        reply = await self._door.ask(TASK_PATH + quote(ref["task_id"], safe=""))
        if not 200 <= reply.status < 300:
            raise poll_error(reply, self._door, ERRORS)
        task = read(reply.body, _Task)
        check_same_task(task.id, ref["task_id"])
        return _progress(task, self._door)


INFO: Final = spec.AdapterInfo(
    name="unified", title="Unified task API (AIHubMax)", docs=("https://docs.aihubmax.com",), base_url=None,
    offerings=OFFERINGS, build=UnifiedTask,
)


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
    """Asserted to be a refusal though it is no JSON: the proxy's own exact text, so it went no further."""
    if reply.status == 403 and reply.body.strip() == b"error code: 1010":
        return spec.VendorError("permission", "rejected", "Cloudflare refuses this client", status=403)
    return None


def _progress(task: _Task, door: spec.VendorDoor) -> spec.Progress:
    state = STATES.get(task.status)
    percent = hint(task.progress, float)
    progress = None if percent is None else round(min(100.0, max(0.0, percent)))
    if state == "pending":
        return spec.Pending(raw_status=task.status, progress=progress)
    if state == "succeeded":
        return spec.Succeeded(raw_status=task.status, url=_url(task))
    if state is None:
        return spec.Unrecognised(raw_status=door.redact(task.status), progress=progress)
    reason = hint(task.error, _Reason) or _Reason(message=hint(task.error, str))
    code = FAILURES.get(str(reason.code)) or FAILURES.get(str(reason.type)) or "vendor_failed"
    message = door.redact(reason.message or "") or "the vendor gave no reason"
    if state == "cancelled":
        message = f"cancelled at the vendor: {message}"
    return spec.Failed(raw_status=task.status, code=code, message=message)


def _url(task: _Task) -> str | None:
    """The first link, wherever a dialect puts it: an object or a string, in a list or alone."""
    for raw in (task.results, task.result_data):
        for entry in hint(raw, list[msgspec.Raw]) or [raw]:
            link = hint(entry, _Link) or _Link(url=hint(entry, str))
            if link.url or link.video_url:
                return link.url or link.video_url
    return None
