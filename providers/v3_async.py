"""The "v3 async" protocol, which highwayapi, MyRouter and their siblings (Novita, PPIO) share.

    POST /v3/async/{slug}                      -> {"task_id": "..."}
    GET  /v3/async/task-result?task_id={id}    -> {"task": {"status": ...}, "videos": [...]}

Held here: how a Kling v3.0 row looks on this platform, the status and error tables, both calls.
Not held here: which vendor offers which row (one file per vendor), HTTP (`providers.http`).

Sources: the pages named in the rows, for the create call; "Get task result" of docs.myrouter.ai and
docs.jiekou.ai, for the poll; "basic error code" of novita.ai and its SDK, for the words. Quirks:

- The t2v pages mark `prompt` required, yet exclusive with `multi_prompt`: beside shots it is left out, or
  sent empty for a row with `empty_prompt_with_shots`. The i2v pages do not call them exclusive: both go.
- `multi_prompt` items are objects where a page shows a shape; one page of a sibling shows plain strings.
- A failed render is an HTTP 200 with free text in `reason`; only the exact phrases of `FAILURES` classify it.
- HTTP 500 TASK_FAILED on a poll probably means a failed render, but one answer is no proof and an adapter has
  no memory: it is "could not ask". It is asked again, and if that never changes the deadline ends the task.
- No word for cancelled, no cancel call, no list call and no idempotency key are documented.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, Literal, TypeVar

import msgspec

from providers import spec
from providers.http import check_same_task, hint, poll_error, read, refusal

T = TypeVar("T")

CREATE_PATH: Final = "/v3/async/"
RESULT_PATH: Final = "/v3/async/task-result"


class V3Offering(spec.Offering, frozen=True, kw_only=True):
    """A row of this protocol. `shot_encoding="string"` sends the prompts only: the vendor times the shots."""

    shot_encoding: Literal["object", "string"] = "object"
    empty_prompt_with_shots: bool = False


def kling_v30(
    pages: str, slug: str, mode: spec.Mode, resolution: spec.Resolution, *, shots: bool, on: bool = False,
) -> V3Offering:
    """A row of the Kling v3.0 family, whose page is `pages` + `slug`; `on` is `on_by_default`.

    The limits of shots are Kling's own, none is stated here. That `image` may be a data URI was only seen on
    other i2v slugs of the platform; the pages do not say.
    """
    from_image = mode == "image-to-video"
    return V3Offering(
        slug=slug, model="kling-v3", mode=mode, resolutions=(resolution,), durations=tuple(range(3, 16)),
        aspect_ratios=() if from_image else ("16:9", "9:16", "1:1"),
        image=spec.ImageLimits() if from_image else None, end_image=from_image,
        shots=spec.ShotLimits() if shots else None, cfg_scale=True, source=pages + slug, on_by_default=on,
    )


# Exact words: any other, in whatever case, is Unrecognised. UNKNOWN is the vendor's own "not known yet".
STATES: Final[Mapping[str, Literal["pending", "succeeded", "failed"]]] = {
    "TASK_STATUS_QUEUED": "pending",
    "TASK_STATUS_PROCESSING": "pending",
    "TASK_STATUS_UNKNOWN": "pending",
    "TASK_STATUS_SUCCEED": "succeeded",
    "TASK_STATUS_FAILED": "failed",
}

_REASONS: Final[Mapping[spec.ErrorKind, tuple[str, ...]]] = {
    "invalid_request": (
        "INVALID_REQUEST_BODY", "INVALID_IMAGE_FORMAT", "INVALID_IMAGE_SIZE", "IMAGE_FILE_EXCEEDS_MAX_SIZE",
        "IMAGE_EXCEEDS_MAX_RESOLUTION", "IMAGE_NO_FACE_DETECTED", "INVALID_AUDIO_FILE",
        "INVALID_CUSTOM_OUTPUT_PATH",
    ),
    "content_policy": ("ILLEGAL_PROMPT", "ILLEGAL_IMAGE_CONTENT"),
    "unsupported": ("API_NOT_FOUND",),
    "auth": (
        "MISSING_API_KEY", "INVALID_API_KEY", "FAILED_TO_AUTH", "BILLING_AUTH_FAILED",
        "ANONYMOUS_ACCESS_QUOTA_EXCEEDS",
    ),
    "insufficient_credit": ("BILLING_BALANCE_NOT_ENOUGH", "NOT_ENOUGH_BALANCE"),
    "permission": (
        "FEATURE_NOT_ALLOWED", "API_NOT_ALLOWED", "NEED_REAL_NAME_VERIFY", "ACCESS_DENY",
        "model_access_denied",
    ),
    "rate_limited": ("RATE_LIMIT_EXCEEDED",),
    "not_found": ("TASK_NOT_FOUND",),
    "unavailable": (
        "BILLING_FAILED", "CREATE_TASK_FAILED", "GET_RESULT_FAILED", "TASK_FAILED", "SERVICE_NOT_AVAILABLE",
    ),
}
# By `reason`, not by status: the pages contradict each other on the HTTP status of key and balance errors.
ERRORS: Final = {word: kind for kind, words in _REASONS.items() for word in words}

# Phrases in the reason of a failed render, letter case and underscores aside. The text is documented nowhere.
FAILURES: Final[Mapping[Literal["content_policy", "insufficient_credit"], tuple[str, ...]]] = {
    "insufficient_credit": (
        "insufficient credit", "not enough credit", "insufficient balance", "not enough balance",
        "balance not enough",
    ),
    "content_policy": ("illegal prompt", "illegal image", "illegal content", "content policy"),
}


class _Created(msgspec.Struct, frozen=True):
    """Raw on purpose: an oddity beside a good id must not cost us the id of a paid task."""

    task_id: msgspec.Raw = msgspec.Raw()
    data: msgspec.Raw = msgspec.Raw()


class _Task(msgspec.Struct, frozen=True):
    """Hints are raw: a bad one must not make the whole answer unreadable."""

    status: str
    task_id: msgspec.Raw = msgspec.Raw()
    reason: msgspec.Raw = msgspec.Raw()
    eta: msgspec.Raw = msgspec.Raw()
    progress_percent: msgspec.Raw = msgspec.Raw()


class _Video(msgspec.Struct, frozen=True):
    video_url: str | None = None
    video_url_ttl: msgspec.Raw = msgspec.Raw()


class _Result(msgspec.Struct, frozen=True):
    task: _Task
    videos: list[msgspec.Raw] | None = None


class V3Async:
    """The adapter of every vendor of this protocol: they differ in rows and base URL, never in code."""

    def __init__(self, door: spec.VendorDoor) -> None:
        self._door = door

    def call(self, request: spec.VideoRequest, offering: spec.Offering) -> spec.VendorCall:
        """The create call. Raises TypeError for a row that is not of this protocol."""
        if not isinstance(offering, V3Offering):
            raise TypeError(f"{offering.slug} is not a row of the v3 async protocol")
        return spec.VendorCall(CREATE_PATH + offering.slug, _body(request, offering))

    async def submit(self, request: spec.VideoRequest, offering: spec.Offering) -> spec.Submitted:
        """Send the create call once. A success without a usable id is `unknown`: there may be a paid task."""
        call = self.call(request, offering)
        reply = await self._door.submit(call.path, call.body)
        if not 200 <= reply.status < 300:
            raise refusal(reply, self._door, ERRORS)
        created = read(reply.body, _Created)
        task_id = spec.usable_task_id(hint(created.task_id, str))
        if task_id is None:
            nested = hint(created.data, _Created) or _Created()
            task_id = spec.usable_task_id(hint(nested.task_id, str))
        if task_id is None:
            raise spec.VendorError("junk", "unknown", "success without a usable task id", status=reply.status)
        return spec.Submitted(vendor_task_id=task_id, ref=self.ref_of(task_id))

    def ref_of(self, vendor_task_id: str) -> spec.Ref:
        """All that a poll needs."""
        return {"task_id": vendor_task_id}

    async def poll(self, ref: spec.Ref) -> spec.Progress:
        """Ask for the result. Raises VendorError when no readable answer came."""
        reply = await self._door.ask(RESULT_PATH, {"task_id": ref["task_id"]})
        if not 200 <= reply.status < 300:
            raise poll_error(reply, self._door, ERRORS)
        result = read(reply.body, _Result)
        check_same_task(result.task.task_id, ref["task_id"])
        return _progress(result, self._door)


def _body(request: spec.VideoRequest, offering: V3Offering) -> dict[str, object]:
    """Only what was asked for, with `sound` always said: vendors' defaults for it differ."""
    prompt = request.prompt
    if prompt is None and offering.empty_prompt_with_shots:
        prompt = ""
    as_objects = offering.shot_encoding == "object"
    shots = [{"prompt": shot.prompt, "duration": shot.duration} if as_objects else shot.prompt
             for shot in request.shots or ()]
    fields: dict[str, object] = {
        "image": request.image,
        "end_image": request.end_image,
        "prompt": prompt,
        "multi_prompt": shots or None,
        "negative_prompt": request.negative_prompt,
        "duration": request.duration,
        "aspect_ratio": request.aspect_ratio,
        "cfg_scale": request.cfg_scale,
        "sound": request.audio,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _progress(result: _Result, door: spec.VendorDoor) -> spec.Progress:
    """Percent and eta are hints: 0 was seen on success, and an eta of 0 before the end says nothing."""
    task = result.task
    state = STATES.get(task.status)
    percent = hint(task.progress_percent, float, strict=False)
    progress = None if percent is None else round(min(100.0, max(0.0, percent)))
    if state == "pending":
        return spec.Pending(raw_status=task.status, progress=progress, eta_seconds=_seconds(task.eta))
    if state == "succeeded":
        videos = (hint(raw, _Video) or _Video() for raw in result.videos or ())
        video = next((video for video in videos if video.video_url), _Video())
        url, seconds = video.video_url or None, _seconds(video.video_url_ttl)
        return spec.Succeeded(raw_status=task.status, url=url, expires_in_seconds=seconds)
    if state == "failed":
        reason = hint(task.reason, str) or ""
        text = reason.casefold().replace("_", " ")
        codes = (code for code, phrases in FAILURES.items() if any(phrase in text for phrase in phrases))
        message = door.redact(reason) or "the vendor gave no reason"
        return spec.Failed(raw_status=task.status, code=next(codes, "vendor_failed"), message=message)
    return spec.Unrecognised(raw_status=door.redact(task.status), progress=progress)


def _seconds(raw: msgspec.Raw) -> float | None:
    seconds = hint(raw, float, strict=False)
    return seconds if seconds is not None and 0 < seconds < math.inf else None
