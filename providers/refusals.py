"""What an offering does not take, and why: the rules that its row implies for a request.

Not held here: the rows themselves (the adapters' tables), the types (`providers.spec`), which offering is
chosen (`gateway.core.routing`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TypeAlias

import msgspec

from providers.spec import ImageForm, Offering, VideoRequest


class Refusal(msgspec.Struct, frozen=True):
    """Why an offering does not take a request: the field, and a sentence for the caller."""

    param: str
    reason: str


def refusals(offering: Offering, request: VideoRequest) -> list[Refusal]:
    """Every reason why `offering` does not take `request`; a wrong model or mode stands alone."""
    if request.model != offering.model:
        return [Refusal("model", f"serves {offering.model}")]
    if request.mode != offering.mode:
        return [Refusal("image", f"is {offering.mode} only")]
    found: list[Refusal] = []

    def check(param: str, fine: bool, reason: str) -> None:
        if not fine:
            found.append(Refusal(param, reason))

    check("resolution", request.resolution in offering.resolutions, f"offers {_words(offering.resolutions)}")
    check("duration", request.duration in offering.durations, f"offers {_seconds(offering.durations)}")
    if request.aspect_ratio is not None:
        ratios = offering.aspect_ratios
        offered = f"offers {_words(ratios)}" if ratios else "takes none"
        check("aspect_ratio", request.aspect_ratio in ratios, offered)
    _check_texts(offering, request, check)
    _check_images(offering, request, check)
    check("audio", offering.audio or not request.audio, "has no audio")
    voices, most = len(request.voice_ids or ()), offering.voice_ids_max
    check("voice_ids", voices <= most, f"takes at most {most} voice ids" if most else "takes no voice ids")
    check("cfg_scale", offering.cfg_scale or request.cfg_scale is None, "takes no cfg_scale")
    return found


_Check: TypeAlias = Callable[[str, bool, str], None]


def _check_texts(offering: Offering, request: VideoRequest, check: _Check) -> None:
    """Lengths in Unicode code points: whether the vendors count those or bytes is documented nowhere."""
    limit = offering.prompt_max_chars
    check("prompt", len(request.prompt or "") <= limit, f"takes a prompt of at most {limit} characters")
    if request.negative_prompt is not None:
        most = offering.negative_prompt_max_chars
        taken = "takes no negative prompt"
        if most is not None:
            taken = f"takes a negative prompt of at most {most} characters"
        check("negative_prompt", most is not None and len(request.negative_prompt) <= most, taken)
    if request.shots is None:
        return
    shots = offering.shots
    if shots is None:
        check("shots", False, "takes no shots")
        return
    check("shots", len(request.shots) <= shots.max_items, f"takes at most {shots.max_items} shots")
    check("shots", all(len(shot.prompt) <= shots.prompt_max_chars for shot in request.shots),
          f"takes shot prompts of at most {shots.prompt_max_chars} characters")
    check("shots", all(shot.duration >= shots.min_seconds for shot in request.shots),
          f"takes shots of at least {shots.min_seconds} s")


def _check_images(offering: Offering, request: VideoRequest, check: _Check) -> None:
    check("end_image", offering.end_image or request.end_image is None, "takes no end image")
    if offering.image is None:
        return
    forms = offering.image.forms
    only = f"takes an image only as {_words(forms)}"
    if "data_uri" not in forms:  # with that setting the gateway hands out URLs of its own
        only += "; uploads and data URIs need the operator's server.public_url"
    for param, value in (("image", request.image), ("end_image", request.end_image)):
        form: ImageForm = "data_uri" if (value or "").startswith("data:") else "url"
        check(param, value is None or form in forms, only)


@lru_cache(256)  # they are asked for with each request, and told to hardly any
def _words(values: tuple[str, ...]) -> str:
    return ", ".join(values)


@lru_cache(256)
def _seconds(durations: tuple[int, ...]) -> str:
    """`3 to 15 s` for a run of integers, else `5, 10 s`."""
    first, last = durations[0], durations[-1]
    if len(durations) > 2 and tuple(durations) == tuple(range(first, last + 1)):
        return f"{first} to {last} s"
    return f"{_words(tuple(map(str, durations)))} s"
