"""What comes in: the body of a create, every rule of contract 2.1, and the request that follows from it.

Held here: the fields and their limits as the published document shows them (`CreateBody`), aliases, the rules
between fields (`RULES`), the fingerprint for idempotency. Not held here: bytes and types (`reading`),
images (`images`), what an offering takes (`providers.refusals`), headers and routes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from gateway.api.images import Checked, check_image
from gateway.api.reading import ERRORS_MAX, faults, nearest, refuse, shortened
from gateway.api.shapes import SIZES, Size
from gateway.core.grants import EVERYTHING, Grant
from gateway.core.routing import is_allowed
from gateway.engine.request import is_shaped
from gateway.errors import FieldError
from providers.spec import AspectRatio, Resolution, Shot, VideoRequest

DURATION_MIN_SECONDS: Final = 3
DURATION_MAX_SECONDS: Final = 15
DURATION_DEFAULT_SECONDS: Final = 5

_Prompt: TypeAlias = Annotated[str, Meta(min_length=1, max_length=2500)]
_Name: TypeAlias = Annotated[str, Meta(min_length=1)]
_VoiceId: TypeAlias = Annotated[str, Meta(min_length=1, max_length=256)]
_Label: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64)]
_Seconds: TypeAlias = Annotated[int, Meta(ge=DURATION_MIN_SECONDS, le=DURATION_MAX_SECONDS)]
_SecondsText: TypeAlias = Literal["3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15"]


class ShotBody(Struct, forbid_unknown_fields=True):
    """One segment; `duration` in whole seconds."""

    prompt: Annotated[str, Meta(min_length=1, max_length=512)]
    duration: Annotated[int, Meta(ge=1, le=DURATION_MAX_SECONDS)]


class ImageReference(Struct, forbid_unknown_fields=True):
    """The OpenAI form of `image`: a URL, a data URI or an upload; exactly one of the two."""

    image_url: str | None = None
    file_id: str | None = None


class CreateBody(Struct, forbid_unknown_fields=True, kw_only=True):
    """A create. Null is the same as left out. `seconds`, `size` and `input_reference` are OpenAI's words."""

    model: str | None = None
    prompt: _Prompt | None = None
    negative_prompt: Annotated[str, Meta(max_length=2500)] | None = None
    image: str | None = None
    end_image: str | None = None
    shots: Annotated[list[ShotBody], Meta(min_length=1, max_length=6)] | None = None
    resolution: Resolution | None = None
    aspect_ratio: AspectRatio | None = None
    duration: _Seconds | None = None
    audio: bool | None = None
    voice_ids: Annotated[list[_VoiceId], Meta(min_length=1, max_length=2)] | None = None
    cfg_scale: Annotated[float, Meta(ge=0, le=1)] | None = None
    provider: _Name | Annotated[list[_Name], Meta(min_length=1, max_length=100)] | None = None
    priority: Annotated[int, Meta(ge=-10, le=10)] | None = None
    metadata: Annotated[dict[_Label, Annotated[str, Meta(max_length=512)]], Meta(max_length=16)] | None = None
    webhook_url: str | None = None
    deadline: Annotated[int, Meta(ge=1, le=2_592_000)] | None = None
    seconds: _Seconds | _SecondsText | None = None
    size: Size | None = None
    input_reference: ImageReference | None = None


_FIELDS: Final = frozenset(CreateBody.__struct_fields__)


class Known(Struct, frozen=True):
    """What a request may name: enabled models and providers; and the model of a request that names none.

    `refuses_webhook` says why a URL cannot be a `webhook_url`, or None. Only what the `grant` of who asks
    allows is told as a choice.
    """

    models: tuple[str, ...]
    providers: tuple[str, ...]
    default_model: str
    refuses_webhook: Callable[[str], str | None] = lambda _: "cannot be used: nothing is sent from here"
    grant: Grant = EVERYTHING


class Asked(Struct, frozen=True):
    """A create that keeps every rule. `fingerprint` is equal exactly for bodies that ask for the same.

    `unknown` are the names in it that the present configuration does not have.
    """

    request: VideoRequest
    pins: tuple[str, ...]
    priority: int
    metadata: dict[str, str]
    deadline_seconds: float | None
    fingerprint: str
    unknown: tuple[FieldError, ...] = ()
    webhook_url: str | None = None


def read_asked(raw: dict[str, object], known: Known) -> Asked:
    """The request in a body, `raw` as JSON would hold it. Raises Problem with every broken rule.

    At most ERRORS_MAX of them. If nothing else is wrong, a name that is not `known` is only noted in
    `unknown`: a replay must find its video although the configuration has changed since.
    """
    errors = faults(raw, CreateBody)
    errors += _reference_faults(raw)
    if len(errors) >= ERRORS_MAX:  # there may be more, so it is not known which fields are fine
        refuse(errors)
    broken = {error.pointer.split("/")[1] for error in errors}
    fine = {name: raw[name] for name in raw.keys() & (_FIELDS - broken)} if broken else raw
    given = msgspec.convert(fine, CreateBody)
    folded, found = _fold(given, broken)
    errors += found
    broken |= {native for alias, natives in ALIASES.items() if alias in broken for native in natives}
    unknown: list[FieldError] = []
    for fields, rule in RULES:
        if broken.isdisjoint(fields):
            (unknown if rule in CONFIGURED else errors).extend(rule(folded, known))
    images = _images(given, folded)
    for image in images.values():
        errors += image.errors
    if "size" not in broken and "image" not in broken:
        errors += _frame_faults(given, images.get("image"))
    if errors:
        refuse(unknown + errors)
    return _asked(folded, known, images, unknown)


# --- aliases ------------------------------------------------------------------------------------------------

ALIASES: Final[Mapping[str, tuple[str, ...]]] = {
    "seconds": ("duration",),
    "size": ("resolution", "aspect_ratio"),
    "input_reference": ("image",),
}


def _fold(given: CreateBody, broken: set[str]) -> tuple[CreateBody, list[FieldError]]:
    """`given` in native fields only, and the aliases that contradict theirs."""
    if given.seconds is None and given.size is None and given.input_reference is None:
        return given, []
    values: dict[str, int | str | None] = {}
    if given.seconds is not None:
        values["duration"] = int(given.seconds)
    if given.size is not None:
        values["resolution"], ratio = SIZES[given.size]
        has_image = given.image is not None or given.input_reference is not None
        if not has_image and broken.isdisjoint(("image", "input_reference")):
            values["aspect_ratio"] = ratio
    if given.input_reference is not None and given.input_reference.image_url is not None:
        values["image"] = given.input_reference.image_url
    errors: list[FieldError] = []
    for name, value in values.items():
        native = getattr(given, name)
        if native is not None and native != value:
            alias = next(alias for alias, natives in ALIASES.items() if name in natives)
            errors.append(FieldError(f"/{alias}", f"Contradicts `{name}`; give one of the two."))
    new = {name: value for name, value in values.items() if getattr(given, name) is None}
    return replace(given, **new, seconds=None, size=None, input_reference=None), errors


def _reference_faults(raw: dict[str, object]) -> Iterator[FieldError]:
    """An upload was put in place of its id before, so what still has an id names something else beside it."""
    reference = raw.get("input_reference")
    if isinstance(reference, dict):
        by_id, by_url = reference.get("file_id"), reference.get("image_url")
        if by_id is not None or by_url is None:
            pointer = "/input_reference/" + ("image_url" if by_id is None else "file_id")
            yield FieldError(pointer, "Give an `image_url`, or the `file_id` of an upload of yours.")


# --- rules between fields -----------------------------------------------------------------------------------

_REFERENCE: Final = re.compile(r"<<<voice_([0-9]+)>>>")


def _model(body: CreateBody, known: Known) -> Iterator[FieldError]:
    name = known.default_model if body.model is None else body.model
    if name not in known.models:
        what = "is unknown" if body.model is not None else "is the default, but no enabled provider serves it"
        shown = [model for model in known.models if is_allowed(known.grant.models, model)]
        hint = f"{nearest(name, shown)} Served here: {', '.join(shown) or 'none'}."
        yield FieldError("/model", f"The model `{shortened(name)}` {what}.{hint}")


def _text(body: CreateBody, known: Known) -> Iterator[FieldError]:
    if body.image is not None and body.prompt is None:
        yield FieldError("/prompt", "Image-to-video needs a prompt; `shots` may be added to it.")
    if body.image is None and body.prompt is None and body.shots is None:
        yield FieldError("/prompt", "Text-to-video needs one of `prompt` and `shots`.")
    if body.image is None and body.prompt is not None and body.shots is not None:
        yield FieldError("/shots", "Text-to-video takes either `prompt` or `shots`, not both.")


def _end_image(body: CreateBody, known: Known) -> Iterator[FieldError]:
    if body.end_image is not None and body.image is None:
        yield FieldError("/end_image", "An end image needs an `image` to begin with.")


def _end_image_shots(body: CreateBody, known: Known) -> Iterator[FieldError]:
    if body.end_image is not None and body.shots is not None:
        yield FieldError("/end_image", "An end image excludes `shots`.")


def _aspect_ratio(body: CreateBody, known: Known) -> Iterator[FieldError]:
    if body.aspect_ratio is not None and body.image is not None:
        yield FieldError("/aspect_ratio", "Leave it out: with an image its frame decides the ratio.")


def _shot_times(body: CreateBody, known: Known) -> Iterator[FieldError]:
    if body.shots is None:
        return
    total = sum(shot.duration for shot in body.shots)
    if body.duration is not None and total != body.duration:
        yield FieldError("/shots", f"The shots add up to {total} s; `duration` is {body.duration} s.")
    elif not DURATION_MIN_SECONDS <= total <= DURATION_MAX_SECONDS:
        limits = f"{DURATION_MIN_SECONDS} to {DURATION_MAX_SECONDS}"
        yield FieldError("/shots", f"The shots add up to {total} s; a video has {limits} s.")


def _voices(body: CreateBody, known: Known) -> Iterator[FieldError]:
    if body.voice_ids is not None and body.audio is not True:
        yield FieldError("/voice_ids", "Voices need `audio` to be true.")


def _voice_references(body: CreateBody, known: Known) -> Iterator[FieldError]:
    names = {str(number) for number in range(1, len(body.voice_ids or ()) + 1)}
    texts = [(f"/shots/{index}/prompt", shot.prompt) for index, shot in enumerate(body.shots or ())]
    for pointer, text in (("/prompt", body.prompt or ""), *texts):
        for name in sorted(set(_REFERENCE.findall(text)) - names):
            yield FieldError(pointer, f"Refers to voice_{shortened(name)}, which `voice_ids` does not give.")


def _pins(body: CreateBody) -> tuple[str, ...]:
    asked = [body.provider] if isinstance(body.provider, str) else body.provider or []
    return tuple(dict.fromkeys(asked))


def _providers(body: CreateBody, known: Known) -> Iterator[FieldError]:
    shown = [one for one in known.providers if is_allowed(known.grant.providers, one)]
    for name in _pins(body):
        if name not in shown:  # one that is not for this key is told as little as one that is not there
            hint = f"{nearest(name, shown)} Enabled here: {', '.join(shown) or 'none'}."
            yield FieldError("/provider", f"There is no provider `{shortened(name)}`.{hint}")


def _webhook(body: CreateBody, known: Known) -> Iterator[FieldError]:
    reason = None if body.webhook_url is None else known.refuses_webhook(body.webhook_url)
    if reason is not None:
        yield FieldError("/webhook_url", f"The URL {reason}.")


Rule: TypeAlias = Callable[[CreateBody, Known], Iterator[FieldError]]
# Each rule with the fields it reads: it has nothing to say when one of them could not be read.
RULES: Final[tuple[tuple[tuple[str, ...], Rule], ...]] = (
    (("model",), _model),
    (("prompt", "shots", "image"), _text),
    (("end_image", "image"), _end_image),
    (("end_image", "shots"), _end_image_shots),
    (("aspect_ratio", "image"), _aspect_ratio),
    (("shots", "duration"), _shot_times),
    (("voice_ids", "audio"), _voices),
    (("prompt", "shots", "voice_ids"), _voice_references),
    (("provider",), _providers),
    (("webhook_url",), _webhook),
)
# Those that ask the configuration of the moment.
CONFIGURED: Final[frozenset[Rule]] = frozenset({_model, _providers, _webhook})


def _images(given: CreateBody, folded: CreateBody) -> dict[str, Checked]:
    """What was found of each image, by its native field; mistakes point to where it was given."""
    where = "/image" if given.image is not None else "/input_reference/image_url"
    named = (("image", where, folded.image), ("end_image", "/end_image", folded.end_image))
    return {field: check_image(pointer, value) for field, pointer, value in named if value is not None}


def _frame_faults(given: CreateBody, image: Checked | None) -> Iterator[FieldError]:
    """`size` beside an image whose frame says otherwise, as far as the frame can be seen."""
    if given.size is None or image is None or image.sides is None or image.errors:
        return
    width, height = (int(side) for side in given.size.split("x"))
    if not is_shaped(image.sides, (width, height)):
        sides = f"{image.sides[0]}x{image.sides[1]}"
        yield FieldError("/size", f"The image is {sides}, more than 2 % off this ratio; its frame decides.")


# --- the request --------------------------------------------------------------------------------------------


def _asked(
    body: CreateBody, known: Known, images: Mapping[str, Checked], unknown: Sequence[FieldError]
) -> Asked:
    shots = None if body.shots is None else tuple(Shot(shot.prompt, shot.duration) for shot in body.shots)
    duration = body.duration
    if duration is None:
        duration = DURATION_DEFAULT_SECONDS if shots is None else sum(shot.duration for shot in shots)
    request = VideoRequest(
        model=known.default_model if body.model is None else body.model, prompt=body.prompt,
        negative_prompt=body.negative_prompt, image=body.image, end_image=body.end_image, shots=shots,
        resolution=body.resolution or "720p", duration=duration, audio=body.audio or False,
        aspect_ratio=None if body.image is not None else body.aspect_ratio or "16:9",
        voice_ids=None if body.voice_ids is None else tuple(body.voice_ids), cfg_scale=body.cfg_scale,
    )  # fmt: skip
    pins, priority, metadata = _pins(body), body.priority or 0, body.metadata or {}
    asked = Asked(
        request, pins, priority, metadata, body.deadline, "", webhook_url=body.webhook_url
    )
    return replace(asked, fingerprint=_fingerprint(asked, body.model, images), unknown=tuple(unknown))


def _fingerprint(asked: Asked, model: str | None, images: Mapping[str, Checked]) -> str:
    """SHA-256 (hex) of what was asked for. The model as given: a new default must not break a replay."""
    content = msgspec.to_builtins(asked.request)
    content |= {"provider": asked.pins, "priority": asked.priority, "metadata": asked.metadata}
    content |= {"model": model, "deadline": asked.deadline_seconds, "webhook_url": asked.webhook_url}
    content |= {field: {"sha256": image.sha256} for field, image in images.items() if image.sha256}
    known = {name: value for name, value in content.items() if value is not None}
    return hashlib.sha256(msgspec.json.encode(known, order="sorted")).hexdigest()
