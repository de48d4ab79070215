"""What is recorded of a vendor: `recordings/NAME.yaml`, read strictly, beside the adapter of that name.

Held here: the shape of a recording, where recordings are, the vendor's schema, and a door for
the pure half of an adapter. Not held here: what is asserted.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import yaml
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from providers.spec import AdapterInfo, Offering, Outcome, Reply, VideoRequest

FOLDERS = (str(Path(__file__).parent / "recordings"), os.environ.get("REELGATE_RECORDINGS", ""))


class Request(VideoRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request as recorded: with a field misspelt it is no request."""


class Call(msgspec.Struct, forbid_unknown_fields=True):
    request: Request
    body: dict[str, object]


class Limits(msgspec.Struct, forbid_unknown_fields=True):
    """What the vendor documents, written down again; of `shots` and `voice_ids` the most, 0 is none."""

    model: str
    mode: str
    default: bool
    resolutions: list[str]
    durations: list[int]
    aspect_ratios: list[str]
    cfg_scale: bool
    shots: int
    prompt: int = 2500
    negative_prompt: int | None = 2500
    shot_prompt: int = 512
    voice_ids: int = 0
    image_forms: list[str] = []
    audio: bool = True
    failed_is_charged: str = "unknown"
    end_image: bool = False
    link_seconds: int = 3600


class Sold(msgspec.Struct, forbid_unknown_fields=True):
    path: str
    limits: Limits
    calls: dict[str, Call]


class Asks(msgspec.Struct, forbid_unknown_fields=True):
    path: str
    query: dict[str, str]


class Poll(msgspec.Struct, forbid_unknown_fields=True):
    answer: object
    means: dict[str, object]


class Answers(msgspec.Struct, forbid_unknown_fields=True):
    asks: Asks
    created: list[object]
    estimate_seconds: float | None
    not_created: list[object]
    error_bodies: list[object]
    errors: list[tuple[str, int, str, Outcome, str]]
    texts: list[tuple[int, str, str, Outcome]]
    polls: dict[str, Poll]
    unreadable: list[object]


class Recording(msgspec.Struct, forbid_unknown_fields=True):
    answers: str
    schema: str
    offerings: dict[str, Sold]


class Subject(msgspec.Struct):
    """An adapter with all that is recorded of its vendor."""

    info: AdapterInfo
    sold: dict[str, Sold]
    answers: Answers
    schema: Path

    def offering(self, slug: str) -> Offering:
        return next(row for row in self.info.offerings if row.slug == slug)


def load(info: AdapterInfo) -> Subject:
    paths = [Path(folder) / f"{info.name}.yaml" for folder in FOLDERS if folder]
    path = next(path for path in paths if path.exists())
    recording = msgspec.yaml.decode(path.read_bytes(), type=Recording)
    answers = msgspec.yaml.decode((path.parent / recording.answers).read_bytes(), type=Answers)
    return Subject(info, recording.offerings, answers, path.parent / recording.schema)


def filled(template: object, **values: object) -> object:
    """`template` with $NAME replaced: by the value where it stands alone, else inside the text."""
    if isinstance(template, dict):
        return {key: filled(item, **values) for key, item in template.items()}
    if isinstance(template, list):
        return [filled(item, **values) for item in template]
    if isinstance(template, str):
        for name, value in values.items():
            if template == f"${name}":
                return value
            template = template.replace(f"${name}", str(value))
    return template


def validator(subject: Subject, path: str) -> jsonschema.Draft202012Validator:
    document = yaml.safe_load(subject.schema.read_bytes())
    assert document["paths"][path]["post"]
    pointer = f"/paths/{path.replace('/', '~1')}/post/requestBody/content/application~1json/schema"
    registry: Registry[Any] = Registry().with_resource("urn:vendor", DRAFT202012.create_resource(document))
    return jsonschema.Draft202012Validator({"$ref": f"urn:vendor#{pointer}"}, registry=registry)


class NoDoor:
    """For `call`, which is pure: whoever knocks fails the test."""

    async def submit(self, path: str, body: Mapping[str, object]) -> Reply:
        raise AssertionError(path, body)

    async def ask(self, path: str, query: Mapping[str, str] | None = None) -> Reply:
        raise AssertionError(path, query)

    def redact(self, text: str) -> str:
        raise AssertionError(text)
