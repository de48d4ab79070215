"""The register and its tables: which adapters there are, how others join, what no row may lack.

Held here: what holds for every row alike. Not held here: what a single vendor documents (`tests/contract`).
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest

import providers
from providers import ADAPTERS, RegisterError, adapters, highwayapi, v3_async
from providers.refusals import refusals
from providers.spec import AdapterInfo, Offering, VideoRequest
from tests.contract.recorded import NoDoor

ROWS = [(info, row) for info in ADAPTERS for row in info.offerings]
IDS = [f"{info.name}-{row.slug}" for info, row in ROWS]
each_row = pytest.mark.parametrize(("info", "row"), ROWS, ids=IDS)


def test_the_five_documented_endpoints_are_on_and_nothing_else() -> None:
    assert {(info.name, row.slug) for info, row in ROWS if row.on_by_default} == {
        ("highwayapi", "kling-v3.0-std-t2v"),
        ("highwayapi", "kling-v3.0-4k-t2v"),
        ("highwayapi", "kling-v3.0-std-i2v"),
        ("myrouter", "kling-v3.0-pro-t2v"),
        ("unified", "kling-v3-text-to-video"),
    }


def test_every_adapter_file_is_registered() -> None:
    folder = Path(providers.__file__).parent
    files = {path.stem for path in folder.glob("*.py") if "\nINFO: " in path.read_text("utf-8")}
    assert files == {info.name for info in ADAPTERS} == set(adapters())


def test_where_the_vendors_are() -> None:
    assert {info.name: info.base_url for info in ADAPTERS} == {
        "highwayapi": "https://api.highwayapi.ai",
        "myrouter": "https://api.myrouter.ai",
        "unified": None,
    }
    assert {info.auth_scheme for info in ADAPTERS} == {"Bearer"}
    assert all(link.startswith("https://") for info in ADAPTERS for link in info.docs)


def test_slugs_are_unique_at_each_vendor() -> None:
    for info in ADAPTERS:
        slugs = [row.slug for row in info.offerings]
        assert sorted(slugs) == sorted(set(slugs)), info.name


@each_row
def test_a_row_is_complete_and_makes_sense(info: AdapterInfo, row: Offering) -> None:
    assert info.name
    assert row.source
    assert row.resolutions
    assert list(row.durations) == sorted(set(row.durations))
    assert (row.mode == "image-to-video") == (row.image is not None) == (not row.aspect_ratios)
    assert row.image is not None or not row.end_image
    assert row.audio or not row.voice_ids_max


@each_row
def test_a_row_speaks_of_its_protocol_only(info: AdapterInfo, row: Offering) -> None:
    stranger = next(other for owner, other in ROWS if owner.build is not info.build)
    assert row.slug != stranger.slug
    with pytest.raises(TypeError, match=stranger.slug):
        info.build(NoDoor()).call(VideoRequest(model="kling-v3"), stranger)


# ---- the quirks that no row has switched on, but an operator's row may ----


def shots_body(**quirks: object) -> dict[str, object]:
    row = msgspec.structs.replace(next(row for row in highwayapi.OFFERINGS if row.shots), **quirks)
    shots = [{"prompt": "One", "duration": 2}, {"prompt": "Two", "duration": 3}]
    request = msgspec.convert({"model": "kling-v3", "shots": shots, "resolution": "1080p"}, VideoRequest)
    assert refusals(row, request) == []
    return v3_async.V3Async(NoDoor()).call(request, row).body


def test_shots_may_go_as_strings() -> None:
    body = shots_body(shot_encoding="string")
    assert body == {"multi_prompt": ["One", "Two"], "duration": 5, "sound": False}


def test_an_empty_prompt_may_go_with_shots() -> None:
    assert shots_body(empty_prompt_with_shots=True)["prompt"] == ""
    assert "prompt" not in shots_body()


# ---- adapters of other packages ----


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, value: str, code: str) -> None:
    """A distribution in `folder` with one module, `reelgate_acme`, and one entry point."""
    metadata = folder / "reelgate_acme-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: reelgate-acme\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[reelgate.providers]\nacme = {value}\n")
    (folder / "reelgate_acme.py").write_text(code)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "reelgate_acme", raising=False)


ACME = """
import msgspec
from providers import myrouter
INFO = msgspec.structs.replace(myrouter.INFO, name="acme")
TWIN = myrouter.INFO
TEXT = "not an adapter"
"""


def test_an_adapter_of_another_package_joins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "reelgate_acme:INFO", ACME)
    assert "reelgate_acme" not in sys.modules
    found = adapters()
    assert list(found) == [*(info.name for info in ADAPTERS), "acme"]
    assert found["acme"].name == "acme"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("reelgate_acme:TWIN", "already an adapter named 'myrouter'"),
        ("reelgate_acme:TEXT", "is a str, not a providers.spec.AdapterInfo"),
        ("reelgate_acme:MISSING", "cannot be loaded"),
        ("reelgate_nowhere:INFO", "cannot be loaded"),
    ],
)
def test_an_adapter_that_cannot_join_is_named(
    value: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, value, ACME)
    with pytest.raises(RegisterError) as caught:
        adapters()
    assert reason in str(caught.value)
    assert f"acme = {value} of reelgate-acme" in str(caught.value)


@pytest.mark.parametrize("code", ["INFO = (", "1 / 0", "raise ImportError('no such vendor')"])
def test_an_adapter_whose_code_fails_is_named(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, "reelgate_acme:INFO", code)
    with pytest.raises(RegisterError, match=r"acme = reelgate_acme:INFO of reelgate-acme.*cannot be loaded"):
        adapters()
