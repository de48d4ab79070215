"""The vendors' schemas, and how strictly the simulators keep them: at each documented limit, and beyond it.

Held here: what is a valid request. Not held here: what becomes of an accepted one (test_protocols).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import httpx
import pytest
import yaml
from openapi_spec_validator import OpenAPIV31SpecValidator, validate

from gateway.sandbox import strictness
from gateway.sandbox.protocols import VENDORS
from gateway.sandbox.server import Sandbox
from tests.sandbox.requests import ACCEPTED, Body, create_path, picture

pytestmark = pytest.mark.anyio

_STD, _PRO, _4K = "kling-v3.0-std-t2v", "kling-v3.0-pro-t2v", "kling-v3.0-4k-t2v"
_I2V, _UNIFIED = "kling-v3.0-std-i2v", "kling-v3-text-to-video"
_FIRST = "https://images.test/first.png"


def shots(*seconds: int, prompt: str = "x") -> list[Body]:
    return [{"prompt": prompt, "duration": duration} for duration in seconds]


# vendor, slug, what every try has, the changes that are accepted, the changes that are refused.
Limits: TypeAlias = tuple[str, str, Body, list[Body], list[Body]]
Place: TypeAlias = tuple[str, str, Body]
_T2V: list[Place] = [("highwayapi", _STD, {}), ("highwayapi", _4K, {}), ("myrouter", _PRO, {})]
_V3: list[Place] = [*_T2V, ("highwayapi", _I2V, {"image": _FIRST})]
_PAGES: list[Place] = [*_V3, ("unified", _UNIFIED, {"model": _UNIFIED})]
_O3: Body = {"model": "kling-o3-text-to-video"}


def everywhere(places: list[Place], base: Body, fine: list[Body], refused: list[Body]) -> list[Limits]:
    return [(vendor, slug, base | own, fine, refused) for vendor, slug, own in places]


LIMITS: list[Limits] = [
    *everywhere(
        _PAGES, {}, [{"prompt": "x" * 2500}, {"prompt": "\U0001f98a" * 2500}], [{"prompt": "x" * 2501}],
    ),
    *everywhere(_V3, {"prompt": "x"}, [{"negative_prompt": "x" * 2500}], [{"negative_prompt": "x" * 2501}]),
    *everywhere(
        [*_V3, ("unified", "kling-o3-text-to-video", _O3)], {"prompt": "x"},
        [{"duration": 3}, {"duration": 15}],
        [{"duration": 2}, {"duration": 16}, {"duration": 5.5}, {"duration": "5"}, {"duration": None}],
    ),
    *everywhere(
        _V3, {"prompt": "x"}, [{"cfg_scale": 0}, {"cfg_scale": 1}],
        [{"cfg_scale": -0.01}, {"cfg_scale": 1.01}, {"cfg_scale": True}],
    ),
    *everywhere(
        [*_T2V, _PAGES[-1]], {"prompt": "x"}, [{"aspect_ratio": "9:16"}, {"aspect_ratio": "1:1"}],
        [{"aspect_ratio": "4:3"}, {"aspect_ratio": ""}],
    ),
    ("highwayapi", _STD, {"prompt": "x"}, [{"sound": False}],
     [{"sound": "true"}, {"sound": 1}, {"multi_prompt": shots(5)}, {"image": _FIRST}, {"seed": 1}]),
    ("highwayapi", _4K, {}, [{"prompt": "x"}, {"multi_prompt": shots(5)}],
     [{}, {"prompt": "x", "multi_prompt": shots(5)}, {"prompt": None}]),
    ("myrouter", _PRO, {}, [{"multi_prompt": shots(5)}], [{}, {"prompt": "x", "multi_prompt": shots(5)}]),
    ("myrouter", _4K, {}, [{"prompt": "x"}], [{"multi_prompt": shots(5)}]),
    ("highwayapi", _4K, {"duration": 6}, [{"multi_prompt": shots(1, 1, 1, 1, 1, 1)}],
     [{"multi_prompt": []}, {"multi_prompt": shots(*[1] * 7), "duration": 7}, {"multi_prompt": shots(1, 4)},
      {"multi_prompt": shots(6, 0)}, {"multi_prompt": ["x"]}, {"multi_prompt": [{"duration": 6}]},
      {"multi_prompt": [{"prompt": "x", "duration": 6, "index": 1}]}]),
    ("highwayapi", _4K, {}, [{"multi_prompt": shots(5, prompt="x" * 512)}],
     [{"multi_prompt": shots(5, prompt="x" * 513)}]),
    ("highwayapi", _I2V, {"image": _FIRST, "prompt": "x"},
     [{"multi_prompt": shots(5)}, {"end_image": _FIRST}],
     [{"multi_prompt": shots(5), "end_image": _FIRST}, {"aspect_ratio": "1:1"}]),
    ("highwayapi", _I2V, {}, [{"image": _FIRST, "prompt": ""}], [{"image": _FIRST}, {"prompt": "x"}]),
    ("highwayapi", _I2V, {"prompt": "x"},
     [{"image": picture(300, 300)}, {"image": picture(750, 300)}, {"image": picture(300, 750)},
      {"image": picture(300, 300, 10_000_000)}, {"image": _FIRST, "end_image": picture(300, 300)}],
     [{"image": picture(299, 300)}, {"image": picture(300, 299)}, {"image": picture(751, 300)},
      {"image": picture(300, 751)}, {"image": picture(300, 300, 10_000_001)}, {"image": "iVBORw0KGgo="},
      {"image": picture(300, 300, kind="gif")}, {"image": "data:image/png;base64,R0lGODlh"},
      {"image": "ftp://images.test/first.png"}, {"image": _FIRST, "end_image": picture(299, 300)}]),
    ("unified", _UNIFIED, {"model": _UNIFIED, "prompt": "x"},
     [{"duration": 5}, {"duration": 10}, {"resolution": "1080p"}, {"resolution": "4k"},
      {"voice_ids": ["a", "b"], "generate_audio": True}, {"multi_prompt": shots(2, 3)}],
     [{"duration": 4}, {"duration": 6}, {"duration": 11}, {"resolution": "480p"}, {"voice_ids": ["a"]},
      {"voice_ids": ["a"], "generate_audio": False}, {"voice_ids": ["a", "b", "c"], "generate_audio": True},
      {"voice_ids": "a", "generate_audio": True}, {"multi_prompt": shots(2, 4)}, {"cfg_scale": 0.5},
      {"sound": True}, {"quality": "720p"}, {"image_url": _FIRST}, {"model": "kling-v9"}, {"model": None}]),
    ("unified", "kling-v3-image-to-video", {"model": "kling-v3-image-to-video", "prompt": "x"},
     [{"image_url": _FIRST}],
     [{}, {"image_url": picture(300, 300)}, {"image_url": _FIRST, "aspect_ratio": "1:1"}]),
]


def numbered(rows: Sequence[tuple[str, str, *tuple[Any, ...]]]) -> list[str]:
    return [f"{number}-{row[0]}-{row[1]}" for number, row in enumerate(rows)]


@pytest.mark.parametrize("vendor", VENDORS)
def test_schema_is_valid_openapi_31(vendor: str) -> None:
    document = yaml.safe_load((strictness.schema_folder() / f"{vendor}.yaml").read_text("utf-8"))
    assert document["openapi"].startswith("3.1.")
    validate(document, cls=OpenAPIV31SpecValidator)


@pytest.mark.parametrize("vendor", VENDORS)
def test_every_slug_of_a_vendor_is_tried_here(vendor: str) -> None:
    assert {slug for name, slug, _ in ACCEPTED if name == vendor} == set(strictness.validators(vendor))


@pytest.mark.parametrize(("vendor", "slug", "body"), ACCEPTED, ids=numbered(ACCEPTED))
async def test_documented_bodies_are_accepted(
    client: httpx.AsyncClient, sandbox: Sandbox, vendor: str, slug: str, body: Body
) -> None:
    answer = await client.post(create_path(vendor, slug), json=body)
    assert answer.status_code == 200, answer.text
    assert [(entry.vendor, entry.slug) for entry in sandbox.ledger] == [(vendor, slug)]


@pytest.mark.parametrize("limits", LIMITS, ids=numbered(LIMITS))
async def test_limits_hold_exactly(client: httpx.AsyncClient, sandbox: Sandbox, limits: Limits) -> None:
    vendor, slug, base, fine, refused = limits
    for change in fine:
        answer = await client.post(create_path(vendor, slug), json=base | change)
        assert answer.status_code == 200, (change, answer.text)
    for change in refused:
        answer = await client.post(create_path(vendor, slug), json=base | change)
        assert answer.status_code in {400, 413, 422}, (str(change)[:200], answer.text)
    assert len(sandbox.ledger) == len(fine)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (picture(299, 300), "INVALID_IMAGE_SIZE"),
        (picture(300, 300, 10_000_001), "IMAGE_FILE_EXCEEDS_MAX_SIZE"),
        ("data:image/png;base64,R0lGODlh", "INVALID_IMAGE_FORMAT"),
        ("data:image/png;base64,AAA", "INVALID_IMAGE_FORMAT"),
        ("iVBORw0KGgo=", "INVALID_REQUEST_BODY"),
    ],
    ids=["size", "bytes", "gif", "base64", "bare"],
)
async def test_unfit_images_have_reasons(client: httpx.AsyncClient, image: str, reason: str) -> None:
    answer = await client.post(create_path("highwayapi", _I2V), json={"image": image, "prompt": "x"})
    assert (answer.status_code, answer.json()["reason"]) == (400, reason)
