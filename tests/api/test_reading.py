"""Any bytes at all: what is no JSON, no text or too much is a problem that can be written, and nothing else.

Not held here: the rules of a create (test_wire).
"""

from __future__ import annotations

import json
from typing import Final

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.api.reading import ERRORS_MAX, ITEMS_MAX, KEYS_MAX
from gateway.api.wire import CreateBody
from gateway.errors import Problem
from providers.spec import VideoRequest
from tests.api.bodies import KNOWN, T2V, URL, Body, data_uri, jpeg, mistakes, png, read, read_create


@pytest.mark.parametrize(
    "body",
    [
        {f"field{number}": 1 for number in range(KEYS_MAX - 1)} | {"duration": "x"},
        {"shots": [5] * ITEMS_MAX},
        {"metadata": {str(number): 1 for number in range(KEYS_MAX)}},
        {"provider": [5] * ITEMS_MAX},
    ],
    ids=["fields", "shots", "labels", "providers"],
)
def test_the_mistakes_of_one_answer_are_bounded(body: Body) -> None:
    assert len(mistakes(body)) == ERRORS_MAX


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"{} {}", "not valid JSON"),
        (b"null", "must be a JSON object"),
        (b"[]", "must be a JSON object"),
        (b'"prompt"', "must be a JSON object"),
        (b'{"prompt": "a", "prompt": "b"}', "a key stands twice"),
        (b'{"shots": [{"prompt": "a", "prompt": "a", "duration": 3}]}', "a key stands twice"),
        (b'{"prompt": "a", "cfg_scale": NaN}', "NaN is no JSON number"),
        (b'{"prompt": "a", "cfg_scale": -Infinity}', "-Infinity is no JSON number"),
        (b'{"prompt": "a", "duration": ' + b"1" * 5000 + b"}", "too many digits"),
        (b'{"prompt": "\xff"}', "not UTF-8"),
        (b'{"prompt": "\xed\xa0\x80"}', "not UTF-8"),
        ('{"prompt": "a"}'.encode("utf-16"), "not UTF-8"),
        (b'\xef\xbb\xbf{"prompt": "a"}', "not valid JSON"),
        (b'{"prompt": "a\tb"}', "not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
    ],
    ids=range(18),
)
def test_a_body_that_is_no_json_object(body: bytes, words: str) -> None:
    with pytest.raises(Problem, match=words) as caught:
        read(body)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (rb'{"prompt": "a\ud800"}', "/prompt"),
        (rb'{"prompt": "a\udc00\ud800"}', "/prompt"),
        (rb'{"prompt": "\u0000"}', "/prompt"),
        (rb'{"shots": [{"prompt": "\uDFFF", "duration": 5}]}', "/shots/0/prompt"),
        (rb'{"prompt": "a", "metadata": {"\ud800": "v"}}', "/metadata"),
        (rb'{"prompt": "a", "\ud800": 1}', ""),
        (rb'{"prompt": "a", "x": [[["\ud800"]]]}', "/x/0/0/0"),
    ],
)
def test_text_that_cannot_be_stored(body: bytes, pointer: str) -> None:
    assert list(mistakes(body)) == [pointer]


def test_a_whole_surrogate_pair_and_other_escapes_are_text() -> None:
    assert read(rb'{"prompt": "\ud83d\ude00 \u00e9 \\ud800"}').request.prompt == "\U0001f600 \xe9 \\ud800"


def test_numbers_beyond_the_range_are_refused_by_their_field() -> None:
    assert list(mistakes(b'{"prompt": "a", "cfg_scale": 1e999}')) == ["/cfg_scale"]
    assert list(mistakes(b'{"prompt": "a", "priority": -' + b"9" * 40 + b"}")) == ["/priority"]


KEYS: Final = st.sampled_from(["prompt", "duration", "image_url", "", "a/b~"]) | st.text(max_size=3)
JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8)
    | st.sampled_from(["720p", "5", "1280x720", "highway", URL, data_uri(png(300, 300)), "<<<voice_1>>>"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=6,
)  # fmt: skip
NAMES: Final = st.sampled_from(CreateBody.__struct_fields__) | st.text(max_size=3)
BODIES: Final = st.dictionaries(NAMES, JSON, max_size=8)


def answered(body: bytes) -> None:
    """Taken or refused with a problem that can be written; anything else is an error of ours."""
    try:
        asked = read_create(body, KNOWN)
    except Problem as problem:
        msgspec.json.encode([problem.code, problem.detail, problem.errors])
    else:
        assert msgspec.convert(msgspec.to_builtins(asked.request), VideoRequest) == asked.request
        msgspec.json.encode(asked)


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(BODIES, st.booleans())
def test_any_object_is_taken_or_refused(body: Body, with_prompt: bool) -> None:
    answered(json.dumps(body | T2V if with_prompt else body).encode())


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.binary(max_size=64) | st.text(max_size=64).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_taken_or_refused(body: bytes) -> None:
    answered(body)
    answered(b'{"prompt": "' + body + b'"}')


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.sampled_from([png(640, 480), jpeg(640, 480, b"\xff\xe0\x00\x04ab")]), st.data())
def test_any_damaged_image_is_taken_or_refused(content: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(content)))
    damaged = content[:cut] + data.draw(st.binary(max_size=8)) + content[cut + data.draw(st.integers(0, 8)) :]
    media_type = data.draw(st.sampled_from(["image/png", "image/jpeg"]))
    answered(json.dumps(T2V | {"image": data_uri(damaged, media_type)}).encode())
