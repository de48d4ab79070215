"""What goes out: the answers' Structs, in the contract's field order, and how each is made of what is stored.

Not held here: what comes in (`gateway.api.wire`), errors (`gateway.api.problems`), headers and routes.
Times are Unix seconds, whole except in the timeline. No vendor's link and no image's bytes are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Any, Final, Literal, TypeAlias

import msgspec

from gateway.api.base import under_base
from gateway.api.images import IMAGE_MAX_BYTES, RATIO_MAX, SIDE_MIN_PIXELS
from gateway.core.routing import Listing
from gateway.core.states import Event, Status, Task
from gateway.engine.request import StoredImage, frame_of
from gateway.settings import Price
from gateway.storage.rows import Video
from providers.spec import AspectRatio, Charged, ImageForm, Mode, Resolution, Shot, ShotLimits

Size: TypeAlias = Literal[
    "1280x720", "720x1280", "720x720",
    "1920x1080", "1080x1920", "1080x1080",
    "3840x2160", "2160x3840", "2160x2160",
]  # fmt: skip
SIZES: Final[Mapping[Size, tuple[Resolution, AspectRatio]]] = {
    "1280x720": ("720p", "16:9"), "720x1280": ("720p", "9:16"), "720x720": ("720p", "1:1"),
    "1920x1080": ("1080p", "16:9"), "1080x1920": ("1080p", "9:16"), "1080x1080": ("1080p", "1:1"),
    "3840x2160": ("4k", "16:9"), "2160x3840": ("4k", "9:16"), "2160x2160": ("4k", "1:1"),
}  # fmt: skip
_SIZE_OF: Final = {shape: size for size, shape in SIZES.items()}


class ShownRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The request as understood, defaults filled in; an image given as data is shown by length and hash.

    `deadline` (seconds) is null where it was not written down. A `webhook_url` may hold a secret, and this
    goes to all who are told of the video: it is not shown.
    """

    model: str
    prompt: str | None = None
    negative_prompt: str | None = None
    image: str | StoredImage | None = None
    end_image: str | StoredImage | None = None
    shots: tuple[Shot, ...] | None = None
    resolution: Resolution = "720p"
    aspect_ratio: AspectRatio | None = None
    duration: int = 5
    audio: bool = False
    voice_ids: tuple[str, ...] | None = None
    cfg_scale: float | None = None
    provider: tuple[str, ...] | None = None
    priority: int = 0
    deadline: int | None = None


class QueueObject(msgspec.Struct, frozen=True):
    """Where a waiting video stands; `position` 1 is next. The start is a guess, null where there is none."""

    position: int
    estimated_start_at: int | None


class OutputObject(msgspec.Struct, frozen=True, kw_only=True):
    """The finished video. `url` is this gateway's own; `bytes` and `sha256` are null until it is stored."""

    url: str
    content_type: str = "video/mp4"
    bytes: int | None = None
    sha256: str | None = None
    stored: bool = False
    expires_at: int | None


class LateOutputObject(OutputObject, frozen=True, kw_only=True):
    """What a vendor delivered after the video had ended, `at` that time; its status stays."""

    at: int


class ErrorObject(msgspec.Struct, frozen=True):
    """Why a video failed or was cancelled; `code` is one of the published task errors."""

    code: str
    message: str


class CostObject(msgspec.Struct, frozen=True):
    """What the video is expected to cost by the configured prices: a decimal as text."""

    amount: str
    currency: str
    kind: Literal["estimate"] = "estimate"


class VideoObject(msgspec.Struct, frozen=True, kw_only=True):
    """A video as callers see it (contract 2.2).

    `size` is null for an image given by URL, which nobody here sees, and for one whose ratio no `size` has.
    `rerun_of` is the video whose request this repeats; `adopted_from` the failed one whose lost job this is.
    """

    id: str
    object: Literal["video"] = "video"
    model: str
    status: Status
    stage: str | None
    progress: int
    created_at: int
    started_at: int | None
    completed_at: int | None
    expires_at: int | None
    prompt: str | None
    seconds: str
    size: Size | None
    request: ShownRequest
    provider: str | None
    offering: str | None
    vendor_task_id: str | None
    attempts: int
    queue: QueueObject | None
    output: OutputObject | None
    late_output: LateOutputObject | None
    error: ErrorObject | None
    charged: Charged
    cost: CostObject | None
    rerun_of: str | None
    adopted_from: str | None
    metadata: dict[str, str]


class VideoList(msgspec.Struct, frozen=True, kw_only=True):
    """One page of videos; both ids are null when it is empty."""

    object: Literal["list"] = "list"
    data: list[VideoObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class TimelineEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened to a video; `at` in Unix seconds with a fraction, `seq` from 1 without gaps.

    Tries of its webhooks, which only the timeline has, are numbered apart, from 1000000.
    """

    seq: int
    at: float
    type: str
    status: Status
    stage: str | None
    provider: str | None
    offering: str | None
    detail: dict[str, str | int | float | None]


class TimelineList(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that happened to a video, oldest first."""

    object: Literal["list"] = "list"
    data: list[TimelineEvent]


class Deleted(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a delete."""

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: Literal[True] = True


class ImageLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What an offering takes as an image. The numbers are those of all, and bind what we can see of one."""

    forms: tuple[ImageForm, ...] = ("url", "data_uri")
    max_bytes: int = IMAGE_MAX_BYTES
    min_side_pixels: int = SIDE_MIN_PIXELS
    max_ratio: float = RATIO_MAX


class Features(msgspec.Struct, frozen=True, kw_only=True):
    """What an offering takes beyond shape and length, with its limits; null, false and 0 mean not at all."""

    prompt_max_chars: int
    negative_prompt_max_chars: int | None
    image: ImageLimits | None
    end_image: bool
    shots: ShotLimits | None
    audio: bool
    voice_ids_max: int
    cfg_scale: bool


class PriceObject(msgspec.Struct, frozen=True, kw_only=True):
    """One configured price: what it is for (null: any), and amounts as decimal text, which are added."""

    resolution: Resolution | None
    audio: bool | None
    per_second: str | None
    per_request: str | None
    currency: str


class OfferingObject(msgspec.Struct, frozen=True, kw_only=True):
    """One way to get a model; `offering` is the vendor's slug. The first price that fits applies.

    From `retires_on` (a date, midnight UTC) it takes nothing new; null: no such day is planned.
    """

    provider: str
    offering: str
    mode: Mode
    resolutions: tuple[Resolution, ...]
    aspect_ratios: tuple[AspectRatio, ...]
    durations: tuple[int, ...]
    features: Features
    price: list[PriceObject]
    retires_on: date | None


class ModelObject(msgspec.Struct, frozen=True, kw_only=True):
    """A model in the OpenAI shape, where `created` is a must: 0, since no vendor says when."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "reelgate"
    offerings: list[OfferingObject]


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """Every model that can be asked for."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


_encoder: Final = msgspec.json.Encoder()
_read_request: Final = msgspec.json.Decoder(ShownRequest).decode


def encode(answer: msgspec.Struct) -> bytes:
    """An answer as JSON."""
    return _encoder.encode(answer)


def video_object(video: Video, queue: tuple[int, float | None] | None = None) -> VideoObject:
    """A stored video as it is shown. `queue` is its place and estimated start, shown only while it waits."""
    task, request = video.task, _read_request(video.request)
    output = _output(task)
    place = None
    if queue is not None and task.state == "waiting":
        place = QueueObject(queue[0], _whole(queue[1]))
    return VideoObject(
        id=task.id, model=task.model, status=task.status, stage=task.stage, progress=task.progress,
        created_at=int(task.created_at), started_at=_whole(task.started_at),
        completed_at=_whole(task.completed_at), expires_at=None if output is None else output.expires_at,
        prompt=request.prompt, seconds=str(request.duration), size=_size(video.request, request),
        request=request, provider=task.provider, offering=task.offering, vendor_task_id=task.vendor_task_id,
        attempts=task.attempts, queue=place, output=output, late_output=_late_output(task),
        error=_error(task), charged=task.charged, cost=_cost(task), rerun_of=task.rerun_of,
        adopted_from=task.adopted_from, metadata=video.metadata,
    )  # fmt: skip


def video_list(videos: Sequence[VideoObject], *, has_more: bool) -> VideoList:
    """One page of videos, in the order given."""
    first, last = (videos[0].id, videos[-1].id) if videos else (None, None)
    return VideoList(data=list(videos), first_id=first, last_id=last, has_more=has_more)


def timeline_list(events: Sequence[Event]) -> TimelineList:
    """A video's timeline, in the order given."""
    return TimelineList(
        data=[
            TimelineEvent(
                seq=event.seq, at=round(event.at, 3), type=event.type, status=event.status, stage=event.stage,
                provider=event.provider, offering=event.offering, detail=event.detail,
            )
            for event in events
        ]
    )


def model_list(
    models: Mapping[str, Sequence[Listing]], prices: Callable[[Listing], Sequence[Price]]
) -> ModelList:
    """The models with the listings that serve each, and each listing's configured prices."""
    return ModelList(
        data=[
            ModelObject(id=model, offerings=[_offering_object(each, prices(each)) for each in listings])
            for model, listings in models.items()
        ]
    )


def _offering_object(listing: Listing, prices: Sequence[Price]) -> OfferingObject:
    offering = listing.offering
    return OfferingObject(
        provider=listing.provider, offering=offering.slug, mode=offering.mode,
        resolutions=offering.resolutions, aspect_ratios=offering.aspect_ratios, durations=offering.durations,
        features=msgspec.convert(offering, Features, from_attributes=True),
        price=[
            PriceObject(
                resolution=price.resolution, audio=price.audio, currency=price.currency,
                per_second=None if price.per_second is None else f"{price.per_second:f}",
                per_request=None if price.per_request is None else f"{price.per_request:f}",
            )
            for price in prices
        ],
        retires_on=listing.retires_on,
    )  # fmt: skip


def _whole(at: float | None) -> int | None:
    return None if at is None else int(at)


def _size(stored: str, request: ShownRequest) -> Size | None:
    ratio = request.aspect_ratio
    if ratio is None and isinstance(request.image, StoredImage):
        ratio = frame_of(stored)
    return None if ratio is None else _SIZE_OF[request.resolution, ratio]


def _output(task: Task) -> OutputObject | None:
    if task.state != "completed":
        return None
    return OutputObject(**_of_file(task, task.result_expires_at))


def _late_output(task: Task) -> LateOutputObject | None:
    if task.late_at is None:
        return None
    return LateOutputObject(**_of_file(task, task.late_expires_at), at=int(task.late_at))


def _of_file(task: Task, link_expires_at: float | None) -> dict[str, Any]:
    """What is told of the file: until when it is there, stored or at its vendor."""
    shown: dict[str, Any] = {"url": _content_url(task), "expires_at": _whole(link_expires_at)}
    if task.file is not None:
        shown |= {
            "content_type": task.file.content_type, "bytes": task.file.bytes, "sha256": task.file.sha256,
            "stored": task.file_key is not None, "expires_at": int(task.file.expires_at),
        }
    return shown


def _content_url(task: Task) -> str:
    return under_base(f"/v1/videos/{task.id}/content")


def _error(task: Task) -> ErrorObject | None:
    return None if task.error_code is None else ErrorObject(task.error_code, task.error_message or "")


def _cost(task: Task) -> CostObject | None:
    if task.cost_amount is None or task.cost_currency is None:
        return None
    return CostObject(task.cost_amount, task.cost_currency)
