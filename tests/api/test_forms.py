"""A create as multipart/form-data: it means what the same create means in JSON, and no form breaks anything.

Every form goes over a socket. Not held here: real clients (`tests/clients`), uploads (`test_uploads`).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeAlias

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.api import forms
from gateway.api.creating import CREATE_MAX_BYTES
from gateway.api.edge import CREATES_AT_WORK
from gateway.api.forms import HEADER_MAX_BYTES, PARTS_MAX
from gateway.api.gateway import BODIES_MAX_BYTES
from gateway.api.images import IMAGE_MAX_BYTES
from gateway.sandbox.admin import ArmRequest
from tests.api.bodies import data_uri, jpeg, png
from tests.serving import PATIENCE_SECONDS, Served, problem, read, serving

Field: TypeAlias = tuple[str, str]
PICTURE: Final = png(640, 480)
OTHER: Final = jpeg(500, 500)
BOUNDARY: Final = "b0undary"
FORM: Final = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
URL: Final = "https://images.test/a.png"
KEYS = iter(range(10_000))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("forms")) as started:
        started.sandbox.arm(ArmRequest(fault="invalid", phase="submit", times="always"))
        yield started


def part(name: str, content: bytes, more: str = "") -> bytes:
    """One part, as it is sent."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'
    return head.encode() + content + b"\r\n"


def picture(name: str, content: bytes = PICTURE, filename: str = "a.png") -> bytes:
    """One part with a file."""
    return part(name, content, f'; filename="{filename}"')


def form(fields: Sequence[Field], *files: bytes) -> bytes:
    """A whole form."""
    return b"".join([*(part(name, text.encode()) for name, text in fields), *files, b"--b0undary--\r\n"])


def send(served: Served, body: bytes, **headers: str) -> httpx.Response:
    return served.client.post("/v1/videos", content=body, headers=FORM | headers)


def mistakes(served: Served, body: bytes) -> dict[str, str]:
    """The pointers and sentences of the refusal that `body` must be."""
    found = problem(send(served, body), 400, "invalid_request")
    return {error["pointer"]: error["detail"] for error in found["errors"]}


FOX: Final = ("prompt", "a fox")
SHOTS: Final = [{"prompt": "a fox", "duration": 2}, {"prompt": "a hen", "duration": 4}]
# A form, and the same in JSON.
SAME: Final[dict[str, tuple[bytes, dict[str, object]]]] = {
    "text": (form([FOX]), {"prompt": "a fox"}),
    "no ascii": (form([("prompt", "ein Fuchs läuft 🦊")]), {"prompt": "ein Fuchs läuft 🦊"}),
    "text that looks like more": (form([("prompt", "[1]"), ("negative_prompt", "null")]),
                                  {"prompt": "[1]", "negative_prompt": "null"}),
    "integer": (form([FOX, ("duration", "7"), ("priority", "-3")]),
                {"prompt": "a fox", "duration": 7, "priority": -3}),
    "number": (form([FOX, ("cfg_scale", "0.5")]), {"prompt": "a fox", "cfg_scale": 0.5}),
    "boolean": (form([FOX, ("audio", "True")]), {"prompt": "a fox", "audio": True}),
    "seconds": (form([FOX, ("seconds", "6"), ("size", "720x1280")]),
                {"prompt": "a fox", "duration": 6, "aspect_ratio": "9:16"}),
    "voices repeated": (form([("prompt", "<<<voice_2>>>"), ("audio", "true"), ("voice_ids", "a"),
                              ("voice_ids", "b")]),
                        {"prompt": "<<<voice_2>>>", "audio": True, "voice_ids": ["a", "b"]}),
    "voices in brackets": (form([FOX, ("audio", "true"), ("voice_ids[]", "a"), ("voice_ids[]", "b")]),
                           {"prompt": "a fox", "audio": True, "voice_ids": ["a", "b"]}),
    "voices numbered": (form([FOX, ("audio", "true"), ("voice_ids[1]", "b"), ("voice_ids[0]", "a")]),
                        {"prompt": "a fox", "audio": True, "voice_ids": ["a", "b"]}),
    "voices as JSON": (form([FOX, ("audio", "true"), ("voice_ids", '["a", "b"]')]),
                       {"prompt": "a fox", "audio": True, "voice_ids": ["a", "b"]}),
    "one voice": (form([FOX, ("audio", "true"), ("voice_ids", "a")]),
                  {"prompt": "a fox", "audio": True, "voice_ids": ["a"]}),
    "provider": (form([FOX, ("provider", "highway")]), {"prompt": "a fox", "provider": "highway"}),
    "providers": (form([FOX, ("provider[]", "narrow"), ("provider[]", "highway")]),
                  {"prompt": "a fox", "provider": ["narrow", "highway"]}),
    "providers as JSON": (form([FOX, ("provider", '["highway"]')]),
                          {"prompt": "a fox", "provider": "highway"}),
    "shots grouped": (form([("shots[][prompt]", "a fox"), ("shots[][prompt]", "a hen"),
                            ("shots[][duration]", "2"), ("shots[][duration]", "4"), ("resolution", "4k")]),
                      {"shots": SHOTS, "resolution": "4k"}),
    "shots in turn": (form([("shots[][prompt]", "a fox"), ("shots[][duration]", "2"),
                            ("shots[][prompt]", "a hen"), ("shots[][duration]", "4"), ("resolution", "4k")]),
                      {"shots": SHOTS, "resolution": "4k"}),
    "shots numbered": (form([("shots[1][prompt]", "a hen"), ("shots[0][prompt]", "a fox"),
                             ("shots[0][duration]", "2"), ("shots[1][duration]", "4"), ("resolution", "4k")]),
                       {"shots": SHOTS, "resolution": "4k"}),
    "shots as JSON": (form([("shots", json.dumps(SHOTS)), ("resolution", "4k")]),
                      {"shots": SHOTS, "resolution": "4k"}),
    "shots as JSON each": (form([("shots[]", json.dumps(shot)) for shot in SHOTS] + [("resolution", "4k")]),
                           {"shots": SHOTS, "resolution": "4k"}),
    "labels": (form([FOX, ("metadata[team]", "x"), ("metadata[a[b]]", "1"), ("metadata[0]", "")]),
               {"prompt": "a fox", "metadata": {"team": "x", "a[b]": "1", "0": ""}}),
    "labels as JSON": (form([FOX, ("metadata", '{"team": "x"}')]),
                       {"prompt": "a fox", "metadata": {"team": "x"}}),
    "image by URL": (form([FOX, ("image", URL)]), {"prompt": "a fox", "image": URL}),
    "reference by URL": (form([FOX, ("input_reference[image_url]", URL)]), {"prompt": "a fox", "image": URL}),
    "reference as JSON": (form([FOX, ("input_reference", json.dumps({"image_url": URL}))]),
                          {"prompt": "a fox", "image": URL}),
    "image file": (form([FOX], picture("image")), {"prompt": "a fox", "image": data_uri(PICTURE)}),
    "file without a name": (form([FOX], part("image", PICTURE, "\r\nContent-Type: image/png")),
                            {"prompt": "a fox", "image": data_uri(PICTURE)}),
    "reference file": (form([FOX], picture("input_reference")),
                       {"prompt": "a fox", "input_reference": {"image_url": data_uri(PICTURE)}}),
    "two files": (form([FOX], picture("image"), picture("end_image", OTHER, "b.jpeg")),
                  {"prompt": "a fox", "image": data_uri(PICTURE),
                   "end_image": data_uri(OTHER, "image/jpeg")}),
    "a file and a data URI": (form([FOX, ("end_image", data_uri(OTHER, "image/jpeg"))], picture("image")),
                              {"prompt": "a fox", "image": data_uri(PICTURE),
                               "end_image": data_uri(OTHER, "image/jpeg")}),
    "the same twice": (form([FOX], picture("image"), picture("input_reference")),
                       {"prompt": "a fox", "image": data_uri(PICTURE)}),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_a_form_and_its_json_are_one_request(served: Served, name: str) -> None:
    body, same = SAME[name]
    key = {"Idempotency-Key": f"same-{next(KEYS)}"}
    first = send(served, body, **key)
    assert first.status_code == 202, first.text
    again = served.client.post("/v1/videos", json=same, headers=key)
    assert again.status_code == 202, again.text
    assert again.headers["idempotent-replayed"] == "true"
    assert read(again)["request"] == read(first)["request"]
    other = {**same, "priority": 9}
    problem(served.client.post("/v1/videos", json=other, headers=key), 422, "idempotency_key_reused")


def test_a_plan_takes_a_form(served: Served) -> None:
    answer = served.client.post("/v1/videos/plan", content=form([FOX], picture("image")), headers=FORM)
    (first, *_) = read(answer)["candidates"]
    assert "characters]" in first["request"]["body"]["image"]


# A form that is refused, and where its mistakes are.
WRONG: Final[dict[str, tuple[bytes, list[str]]]] = {
    "unknown": (form([FOX, ("colour", "red")]), ["/colour"]),
    "unknown in brackets": (form([FOX, ("colour[x]", "red")]), ["/colour"]),
    "unknown file": (form([FOX], picture("video")), ["/video"]),
    "a file for text": (form([], picture("prompt")), ["/prompt"]),
    "no integer": (form([FOX, ("duration", "five")]), ["/duration"]),
    "a fraction": (form([FOX, ("duration", "5.0")]), ["/duration"]),
    "an empty number": (form([FOX, ("duration", "")]), ["/duration"]),
    "beyond its limit": (form([FOX, ("duration", "99"), ("cfg_scale", "1.01")]), ["/duration", "/cfg_scale"]),
    "no boolean": (form([FOX, ("audio", "1")]), ["/audio"]),
    "no number": (form([FOX, ("cfg_scale", "nan")]), ["/cfg_scale"]),
    "twice": (form([FOX, FOX]), ["/prompt"]),
    "twice as file": (form([FOX], picture("image"), picture("image")), ["/image"]),
    "file and text": (form([FOX, ("image", URL)], picture("image")), ["/image"]),
    "two images": (form([FOX, ("image", URL)], picture("input_reference")), ["/input_reference"]),
    "no image": (form([FOX], picture("image", b"GIF89a")), ["/image"]),
    "an empty file": (form([FOX], picture("image", b"")), ["/image"]),
    "a small image": (form([FOX], picture("image", png(299, 300))), ["/image"]),
    "a list for text": (form([("prompt[]", "a")]), ["/prompt"]),
    "two ways": (form([("shots", json.dumps(SHOTS)), ("shots[][prompt]", "a")]), ["/shots"]),
    "a shot without its time": (form([("shots[][prompt]", "a"), ("shots[][prompt]", "b"),
                                      ("shots[][duration]", "3")]), ["/shots/1/duration"]),
    "a gap": (form([("shots[0][prompt]", "a"), ("shots[0][duration]", "3"), ("shots[2][prompt]", "a"),
                    ("shots[2][duration]", "3")]), ["/shots"]),
    "too deep": (form([FOX, ("metadata[a][b]", "c")]), ["/metadata"]),
    "a label twice": (form([FOX, ("metadata[a]", "b"), ("metadata[a]", "c")]), ["/metadata"]),
    "broken JSON": (form([("shots", "[{]")]), ["/shots"]),
    "a key twice in JSON": (form([FOX, ("metadata", '{"a": "b", "a": "c"}')]), ["/metadata"]),
    "U+0000": (form([("prompt", "a\0b")]), ["/prompt"]),
    "half a pair in JSON": (form([FOX, ("metadata", '{"a": "\\ud800"}')]), ["/metadata"]),
    "no UTF-8": (b"".join([part("prompt", b"\xff\xfe"), b"--b0undary--\r\n"]), ["/prompt"]),
    "an upload that is none": (form([FOX, ("image", "file_" + "0" * 32)]), ["/image"]),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_form_is_refused_and_the_field_is_named(served: Served, name: str) -> None:
    body, pointers = WRONG[name]
    assert list(mistakes(served, body)) == pointers


@pytest.mark.parametrize("kind", [
    "multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=" + "x" * 201,
    'multipart/form-data; boundary="\xe9"', "multipart/form-data; charset=utf-8", "Multipart/Form-Data;",
])  # fmt: skip
def test_a_form_without_a_boundary_is_refused(served: Served, kind: str) -> None:
    headers = {"Content-Type": kind.encode("latin-1")}
    answer = served.client.post("/v1/videos", content=form([FOX]), headers=headers)  # type: ignore[arg-type]
    assert "boundary" in problem(answer, 400, "invalid_request")["detail"]


@pytest.mark.parametrize(
    "body",
    [b"", b"--b0undary", b"--b0undary--", b"--b0undary\r\n\r\nx\r\n--b0undary--", form([FOX])[:-9],
     b"x" + form([FOX]), b"--b0undary\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b0undary--\r\n",
     b"--b0undary\r\nContent-Disposition: attachment; name=a\r\n\r\nx\r\n--b0undary--\r\n"],
)  # fmt: skip
def test_what_is_no_form_is_refused(served: Served, body: bytes) -> None:
    problem(send(served, body), 400, "invalid_request")


# --- limits -------------------------------------------------------------------------------------------------


def filled(limit: int, name: str = "negative_prompt") -> bytes:
    """A form of exactly so many bytes."""
    rest = len(form([FOX, (name, "")]))
    return form([FOX, (name, "x" * (limit - rest))])


def test_a_form_may_have_so_many_bytes_and_no_more(served: Served) -> None:
    assert list(mistakes(served, filled(CREATE_MAX_BYTES))) == ["/negative_prompt"]
    problem(send(served, filled(CREATE_MAX_BYTES + 1)), 413, "payload_too_large")
    body = filled(CREATE_MAX_BYTES + 1)

    def chunks() -> Iterator[bytes]:
        yield from (body[start : start + 2**20] for start in range(0, len(body), 2**20))

    problem(served.client.post("/v1/videos", content=chunks(), headers=FORM), 413, "payload_too_large")


@pytest.mark.parametrize("field", ["image", "input_reference"])
def test_a_file_may_have_so_many_bytes_and_no_more(served: Served, field: str) -> None:
    whole = send(served, form([FOX], picture(field, png(640, 480, IMAGE_MAX_BYTES))))
    assert read(whole)["request"]["image"]["bytes"] == IMAGE_MAX_BYTES
    found = mistakes(served, form([FOX], picture(field, png(640, 480, IMAGE_MAX_BYTES + 1))))
    assert list(found) == ["/image" if field == "image" else "/input_reference/image_url"]


def test_a_form_may_have_so_many_parts_and_no_more(served: Served) -> None:
    assert list(mistakes(served, form([FOX] * PARTS_MAX))) == ["/prompt"]
    assert problem(send(served, form([FOX] * (PARTS_MAX + 1))), 400, "invalid_request")["errors"] == []


def test_the_head_of_a_part_may_have_so_many_bytes_and_no_more(served: Served) -> None:
    line = len('Content-Disposition: form-data; name=""')
    assert len(mistakes(served, form([FOX, ("x" * (HEADER_MAX_BYTES - line), "y")]))) == 1
    body = form([FOX, ("x" * (HEADER_MAX_BYTES - line + 1), "y")])
    assert problem(send(served, body), 400, "invalid_request")["errors"] == []


def test_large_bodies_beyond_the_budget_are_refused_and_none_is_forgotten(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forms, "ROOM_SECONDS", 0.01)
    budget = served.gateway.bodies
    large = form([FOX], picture("image", png(640, 480, 1_000_000)))
    text = json.dumps({"prompt": "a fox", "image": data_uri(png(640, 480, 1_000_000))}).encode()
    assert send(served, large).status_code == 202

    def chunks() -> Iterator[bytes]:  # of a body that says nothing of its length
        yield text[:200_000]
        yield text[200_000:]

    assert budget.used == 0
    assert budget.take(BODIES_MAX_BYTES - 900_000)
    try:
        for content in (large, text, chunks()):
            headers = FORM if content is large else {}
            # On a connection of its own: refused before all of the body was read, it is closed.
            with httpx.Client(base_url=served.client.base_url, trust_env=False) as client:
                answer = client.post("/v1/videos", content=content, headers=headers)
            found = problem(answer, 503, "overloaded")
            assert (found["charged"], found["retryable"]) == ("no", True)
            assert "x-should-retry" not in answer.headers, "surely nothing was stored"
        assert send(served, form([FOX], picture("image"))).status_code == 202, "what is small has room"
        assert served.create()["status"] == "queued"
    finally:
        budget.give(BODIES_MAX_BYTES - 900_000)
    assert send(served, large).status_code == 202
    assert budget.used == 0


def test_a_large_body_waits_for_room_and_holds_up_nobody(served: Served) -> None:
    budget, large = served.gateway.bodies, form([FOX], picture("image", png(640, 480, 1_000_000)))
    entering, is_waiting = budget.enter, threading.Semaphore(0)

    async def enter(count: int) -> None:
        is_waiting.release()
        await entering(count)

    assert budget.take(BODIES_MAX_BYTES)
    try:
        budget.enter = enter  # type: ignore[method-assign]
        with ThreadPoolExecutor(CREATES_AT_WORK + 1) as pool:
            waiting = [pool.submit(send, served, large) for _ in range(CREATES_AT_WORK + 1)]
            for _ in waiting:
                assert is_waiting.acquire(timeout=PATIENCE_SECONDS)
            assert served.create()["status"] == "queued"
            assert not any(answer.done() for answer in waiting)
            served.portal.call(budget.give, BODIES_MAX_BYTES)
            assert {answer.result(PATIENCE_SECONDS).status_code for answer in waiting} == {202}
    finally:
        budget.enter = entering  # type: ignore[method-assign]
    assert budget.used == 0


# --- anything -----------------------------------------------------------------------------------------------

NAMES = st.sampled_from([
    "prompt", "shots", "shots[]", "shots[][prompt]", "shots[0][duration]", "metadata", "metadata[a]", "x",
    "input_reference", "input_reference[file_id]", "voice_ids[]", "provider[0]", "duration", "image", "[",
    "", "]", "[]", "a]b[", "shots[][][]", "metadata[]", "image[]", "\u00fc", "~/",
]) | st.text(max_size=6)  # fmt: skip
CONTENTS = st.binary(max_size=24) | st.sampled_from([b"{}", b"[[]]", b'{"a":1}', b"5", b"true", PICTURE])
MORE = st.sampled_from(["", '; filename="a.png"', "; filename=", '; filename="', "; filename*=x''%ff"])
PARTS = st.tuples(NAMES, CONTENTS, MORE)


@settings(max_examples=250, deadline=None, derandomize=True, database=None,
          suppress_health_check=list(HealthCheck))  # fmt: skip
@given(parts=st.lists(PARTS, max_size=5), cut=st.none() | st.integers(0, 200), noise=st.binary(max_size=8))
def test_no_form_is_a_fault_of_ours(
    served: Served, parts: list[tuple[str, bytes, str]], cut: int | None, noise: bytes
) -> None:
    heads = (f'form-data; name="{name}"{more}'.encode("utf-8", "replace") for name, _, more in parts)
    body = b"".join(
        b"--b0undary\r\nContent-Disposition: " + head + b"\r\n\r\n" + content + b"\r\n"
        for head, (_, content, _) in zip(heads, parts, strict=True)
    ) + b"--b0undary--\r\n"  # fmt: skip
    body = body if cut is None else body[:cut] + noise + body[cut:]
    answer: Any = send(served, body)
    assert answer.status_code in (202, 400, 413, 422), answer.text
    if answer.status_code != 202:
        problem(answer, answer.status_code, answer.json()["code"])
