"""Every rule of a create at its limit and one beyond, all mistakes at once, aliases, and the fingerprint.

Not held here: bytes that are no such body (test_reading), images (test_images), what an offering takes.
"""

from __future__ import annotations

from typing import Final

import pytest

from gateway.api.wire import CreateBody, Known
from providers.spec import Shot, VideoRequest
from tests.api.bodies import I2V, KNOWN, T2V, URL, VOICED, Body, data_uri, mistakes, png, read, shots

TAKEN: Final[dict[str, Body]] = {
    "prompt of 1": {"prompt": "a"},
    "prompt of 2500 code points": {"prompt": "\U0001f600" * 2500},
    "blank prompt": {"prompt": " "},
    "shots instead of a prompt": {"shots": shots(3)},
    "shots beside a prompt and an image": I2V | {"shots": shots(5)},
    "negative prompt of 2500": T2V | {"negative_prompt": "n" * 2500},
    "empty negative prompt": T2V | {"negative_prompt": ""},
    "six shots": {"shots": shots(1, 1, 1, 1, 1, 1)},
    "shot prompt of 512": {"shots": shots(3, prompt="p" * 512)},
    "shots of 15 s": {"shots": shots(10, 5)},
    "shots that add up": {"shots": shots(2, 2), "duration": 4},
    "shots that add up to seconds": {"shots": shots(2, 2), "seconds": "4"},
    "shortest": T2V | {"duration": 3},
    "longest": T2V | {"duration": 15},
    "2 voices": VOICED | {"voice_ids": ["x", "y" * 256]},
    "voice references": VOICED | {"prompt": "<<<voice_1>>> <<<voice_2>>>", "voice_ids": ["x", "y"]},
    "voice without a reference": VOICED | {"voice_ids": ["x"]},
    "something like a reference": {"prompt": "<<<voice>>> <<<voice_>>> <voice_1>"},
    "cfg_scale 0": T2V | {"cfg_scale": 0},
    "cfg_scale 1": T2V | {"cfg_scale": 1.0},
    "end image": I2V | {"end_image": URL},
    "provider by name": T2V | {"provider": "highway"},
    "providers in order": T2V | {"provider": ["myrouter", "highway"]},
    "lowest priority": T2V | {"priority": -10},
    "highest priority": T2V | {"priority": 10},
    "16 labels": T2V | {"metadata": {f"{number}".rjust(64, "k"): "v" * 512 for number in range(16)}},
    "empty label": T2V | {"metadata": {"k": ""}},
    "shortest deadline": T2V | {"deadline": 1},
    "longest deadline": T2V | {"deadline": 2_592_000},
    "seconds as text": T2V | {"seconds": "15"},
    "seconds as a number": T2V | {"seconds": 3},
    "size": T2V | {"size": "2160x3840"},
    "size with an image": I2V | {"size": "720x1280"},
    "input_reference": {"prompt": "a", "input_reference": {"image_url": URL}},
    "aliases that agree": I2V | {
        "input_reference": {"image_url": URL}, "duration": 4, "seconds": "4", "size": "720x720",
        "resolution": "720p",
    },
    "nulls": {**dict.fromkeys(CreateBody.__struct_fields__), "prompt": "a"},
}  # fmt: skip

REFUSED: Final[dict[str, tuple[Body, str]]] = {
    "nothing": ({}, "/prompt"),
    "prompt and shots": (T2V | {"shots": shots(5)}, "/shots"),
    "image without a prompt": ({"image": URL, "shots": shots(5)}, "/prompt"),
    "empty prompt": ({"prompt": ""}, "/prompt"),
    "prompt of 2501": ({"prompt": "p" * 2501}, "/prompt"),
    "prompt of 2.5 million": ({"prompt": "p" * 2_500_000}, "/prompt"),
    "prompt no text": ({"prompt": 5}, "/prompt"),
    "negative prompt of 2501": (T2V | {"negative_prompt": "n" * 2501}, "/negative_prompt"),
    "no shots": ({"shots": []}, "/shots"),
    "seven shots": ({"shots": shots(1, 1, 1, 1, 1, 1, 1)}, "/shots"),
    "empty shot prompt": ({"shots": shots(3, prompt="")}, "/shots/0/prompt"),
    "shot prompt of 513": ({"shots": shots(3, prompt="p" * 513)}, "/shots/0/prompt"),
    "shot of 0 s": ({"shots": shots(5, 0)}, "/shots/1/duration"),
    "shot of too many digits": ({"shots": shots(10**4000)}, "/shots/0/duration"),
    "shot without a duration": ({"shots": [{"prompt": "a"}]}, "/shots/0/duration"),
    "shot with a stranger": ({"shots": [{"prompt": "a", "duration": 5, "x": 1}]}, "/shots/0/x"),
    "shot no object": ({"shots": ["a"]}, "/shots/0"),
    "shots of 2 s": ({"shots": shots(1, 1)}, "/shots"),
    "shots of 16 s": ({"shots": shots(8, 8)}, "/shots"),
    "shots that do not add up": ({"shots": shots(2, 2), "duration": 5}, "/shots"),
    "shots that do not add up to seconds": ({"shots": shots(2, 2), "seconds": "5"}, "/shots"),
    "unknown resolution": (T2V | {"resolution": "480p"}, "/resolution"),
    "unknown aspect ratio": (T2V | {"aspect_ratio": "4:3"}, "/aspect_ratio"),
    "aspect ratio with an image": (I2V | {"aspect_ratio": "16:9"}, "/aspect_ratio"),
    "too short": (T2V | {"duration": 2}, "/duration"),
    "too long": (T2V | {"duration": 16}, "/duration"),
    "duration as text": (T2V | {"duration": "5"}, "/duration"),
    "duration as a fraction": (T2V | {"duration": 5.0}, "/duration"),
    "duration as a boolean": (T2V | {"duration": True}, "/duration"),
    "audio as a number": (T2V | {"audio": 1}, "/audio"),
    "no voices": (VOICED | {"voice_ids": []}, "/voice_ids"),
    "three voices": (VOICED | {"voice_ids": ["x", "y", "z"]}, "/voice_ids"),
    "empty voice": (VOICED | {"voice_ids": [""]}, "/voice_ids/0"),
    "voice of 257": (VOICED | {"voice_ids": ["x", "y" * 257]}, "/voice_ids/1"),
    "voice no text": (VOICED | {"voice_ids": [1]}, "/voice_ids/0"),
    "voices without audio": (T2V | {"voice_ids": ["x"]}, "/voice_ids"),
    "voices without sound": (T2V | {"voice_ids": ["x"], "audio": False}, "/voice_ids"),
    "reference without voices": (VOICED | {"prompt": "<<<voice_1>>>"}, "/prompt"),
    "second reference": (VOICED | {"prompt": "<<<voice_1>>> <<<voice_2>>>", "voice_ids": ["x"]}, "/prompt"),
    "third reference": (VOICED | {"prompt": "<<<voice_3>>>", "voice_ids": ["x", "y"]}, "/prompt"),
    "reference to none": (VOICED | {"prompt": "<<<voice_0>>>", "voice_ids": ["x"]}, "/prompt"),
    "reference in a shot": ({"shots": [*shots(2), *shots(2, prompt="<<<voice_1>>>")]}, "/shots/1/prompt"),
    "cfg_scale below": (T2V | {"cfg_scale": -0.01}, "/cfg_scale"),
    "cfg_scale above": (T2V | {"cfg_scale": 1.01}, "/cfg_scale"),
    "end image alone": (T2V | {"end_image": URL}, "/end_image"),
    "end image and shots": (I2V | {"end_image": URL, "shots": shots(5)}, "/end_image"),
    "unknown provider": (T2V | {"provider": "nobody"}, "/provider"),
    "unknown second provider": (T2V | {"provider": ["highway", "nobody"]}, "/provider"),
    "empty provider": (T2V | {"provider": ""}, "/provider"),
    "no providers": (T2V | {"provider": []}, "/provider"),
    "empty name among providers": (T2V | {"provider": ["highway", ""]}, "/provider/1"),
    "101 providers": (T2V | {"provider": ["highway"] * 101}, "/provider"),
    "priority below": (T2V | {"priority": -11}, "/priority"),
    "priority above": (T2V | {"priority": 11}, "/priority"),
    "17 labels": (T2V | {"metadata": {str(number): "" for number in range(17)}}, "/metadata"),
    "label without a name": (T2V | {"metadata": {"": "v"}}, "/metadata/"),
    "label name of 65": (T2V | {"metadata": {"k" * 65: "v"}}, f"/metadata/{'k' * 64}..."),
    "label of 513": (T2V | {"metadata": {"a/b~": "v" * 513}}, "/metadata/a~1b~0"),
    "label no text": (T2V | {"metadata": {"k": 1}}, "/metadata/k"),
    "label null": (T2V | {"metadata": {"k": None}}, "/metadata/k"),
    "metadata no object": (T2V | {"metadata": []}, "/metadata"),
    "webhook": (T2V | {"webhook_url": "https://hooks.example"}, "/webhook_url"),
    "deadline of 0": (T2V | {"deadline": 0}, "/deadline"),
    "deadline of 30 days and 1 s": (T2V | {"deadline": 2_592_001}, "/deadline"),
    "unknown model": (T2V | {"model": "kling-v4"}, "/model"),
    "empty model": (T2V | {"model": ""}, "/model"),
    "unknown field": (T2V | {"n": 1}, "/n"),
    "field of another case": (T2V | {"Prompt": "a"}, "/Prompt"),
    "seconds too short": (T2V | {"seconds": "2"}, "/seconds"),
    "seconds too long": (T2V | {"seconds": 16}, "/seconds"),
    "seconds no digits": (T2V | {"seconds": "5s"}, "/seconds"),
    "seconds with a line break": (T2V | {"seconds": "5\n"}, "/seconds"),
    "seconds as a boolean": (T2V | {"seconds": True}, "/seconds"),
    "seconds against duration": (T2V | {"seconds": "5", "duration": 6}, "/seconds"),
    "unknown size": (T2V | {"size": "1024x1792"}, "/size"),
    "size against resolution": (T2V | {"size": "1280x720", "resolution": "1080p"}, "/size"),
    "size against aspect ratio": (T2V | {"size": "1280x720", "aspect_ratio": "1:1"}, "/size"),
    "input_reference against image": (I2V | {"input_reference": {"image_url": "x"}}, "/input_reference"),
    "input_reference as text": (T2V | {"input_reference": URL}, "/input_reference"),
    "input_reference empty": (T2V | {"input_reference": {}}, "/input_reference/image_url"),
    "input_reference no image": (
        T2V | {"input_reference": {"image_url": "a"}}, "/input_reference/image_url",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TAKEN)
def test_at_the_limit_it_is_taken(name: str) -> None:
    assert read(TAKEN[name]).request.model == "kling-v3"


@pytest.mark.parametrize("name", REFUSED)
def test_beyond_the_limit_it_is_refused_and_only_that_field_is_named(name: str) -> None:
    body, pointer = REFUSED[name]
    assert list(mistakes(body)) == [pointer]


def test_defaults_are_filled_in() -> None:
    asked = read(T2V)
    assert asked.request == VideoRequest(
        model="kling-v3", prompt="a", resolution="720p", aspect_ratio="16:9", duration=5, audio=False
    )
    assert (asked.pins, asked.priority, asked.metadata, asked.deadline_seconds) == ((), 0, {}, None)


def test_every_field_arrives() -> None:
    body: Body = {
        "model": "kling-v3-turbo", "prompt": "p", "negative_prompt": "n", "image": URL, "resolution": "4k",
        "shots": shots(4, 5, prompt="s"), "audio": True, "voice_ids": ["x", "y"], "cfg_scale": 0.5,
        "provider": ["myrouter", "highway", "myrouter"], "priority": 3, "metadata": {"k": "v"},
        "deadline": 60,
    }  # fmt: skip
    asked = read(body)
    assert asked.request == VideoRequest(
        model="kling-v3-turbo", prompt="p", negative_prompt="n", image=URL,
        shots=(Shot("s", 4), Shot("s", 5)), resolution="4k",
        aspect_ratio=None, duration=9, audio=True, voice_ids=("x", "y"), cfg_scale=0.5,
    )  # fmt: skip
    assert asked.pins == ("myrouter", "highway")
    assert (asked.priority, asked.metadata, asked.deadline_seconds) == (3, {"k": "v"}, 60)
    assert read(I2V | {"end_image": URL + "2"}).request.end_image == URL + "2"


@pytest.mark.parametrize(
    ("size", "resolution", "ratio"),
    [
        ("1280x720", "720p", "16:9"), ("720x1280", "720p", "9:16"), ("720x720", "720p", "1:1"),
        ("1920x1080", "1080p", "16:9"), ("1080x1920", "1080p", "9:16"), ("1080x1080", "1080p", "1:1"),
        ("3840x2160", "4k", "16:9"), ("2160x3840", "4k", "9:16"), ("2160x2160", "4k", "1:1"),
    ],
)  # fmt: skip
def test_size_is_resolution_and_without_an_image_ratio(size: str, resolution: str, ratio: str) -> None:
    plain = read(T2V | {"size": size}).request
    assert (plain.resolution, plain.aspect_ratio) == (resolution, ratio)
    framed = read(I2V | {"size": size}).request
    assert (framed.resolution, framed.aspect_ratio) == (resolution, None)


def test_every_mistake_is_named_at_once() -> None:
    body: Body = {
        "model": "kling", "prompt": "<<<voice_2>>>",
        "shots": [{"promt": "a", "duration": 0}, *shots(1, prompt="")],
        "resolution": "8k", "end_image": "ftp://x", "voice_ids": ["x", 5],
        "metadata": {"a": 1, "b": "v" * 513},
        "provider": ["highwy", "nobody"], "seconds": 1, "priority": 99, "webhook_url": "x", "Size": 1,
    }  # fmt: skip
    found = mistakes(body)
    assert set(found) == {
        "/Size", "/shots/0/promt", "/shots/0/prompt", "/shots/0/duration", "/shots/1/prompt", "/resolution",
        "/voice_ids/1", "/priority", "/metadata/a", "/metadata/b", "/seconds", "/model", "/provider",
        "/webhook_url", "/end_image",
    }  # fmt: skip


def test_what_follows_from_a_mistake_is_no_second_one() -> None:
    """A field that could not be read is given all the same."""
    assert list(mistakes({"prompt": 5})) == ["/prompt"]
    assert list(mistakes({"image": 5, "prompt": "a", "end_image": URL, "aspect_ratio": "1:1"})) == ["/image"]
    assert list(mistakes({"shots": shots(0, 4), "seconds": 4})) == ["/shots/0/duration"]
    assert list(mistakes({"shots": shots(1, 1), "seconds": 99})) == ["/seconds"]
    assert list(mistakes({"prompt": "a", "input_reference": 5, "end_image": URL})) == ["/input_reference"]


@pytest.mark.parametrize(
    ("body", "pointer", "words"),
    [
        (T2V | {"model": "klng-v3"}, "/model", "Did you mean `kling-v3`"),
        (T2V | {"model": "wholly else"}, "/model", "Served here: kling-v3, kling-v3-turbo."),
        (T2V | {"provider": "higway"}, "/provider", "Did you mean `highway`?"),
        (T2V | {"promt": "a"}, "/promt", "Did you mean `prompt`"),
        (T2V | {"resolution": "8k"}, "/resolution", "Expected one of 720p, 1080p, 4k."),
    ],
)
def test_a_refusal_names_what_would_be_right(body: Body, pointer: str, words: str) -> None:
    assert words in mistakes(body)[pointer]


def test_a_default_model_that_nobody_serves_is_said_to_be_that() -> None:
    found = mistakes(T2V, Known((), (), "kling-v3"))
    assert "is the default, but no enabled provider serves it" in found["/model"]


def test_a_caller_is_never_quoted_at_length() -> None:
    long = "x" * 100_000
    body: Body = {long: 1, "model": long, "provider": long, "metadata": {long: 1}, "resolution": long}
    found = mistakes(T2V | body)
    assert len(found) == 5
    assert max(len(text) for text in (*found, *found.values())) < 200


SAME: Final[dict[str, tuple[Body | bytes, Body | bytes]]] = {
    "order and spaces": (b'{"prompt":"a","audio":true}', b' { "audio" : true, "prompt" : "\\u0061" } '),
    "order of labels": (T2V | {"metadata": {"a": "1", "b": "2"}}, T2V | {"metadata": {"b": "2", "a": "1"}}),
    "seconds as text": (T2V, T2V | {"seconds": "5"}),
    "seconds": (T2V | {"seconds": 7}, T2V | {"duration": 7}),
    "defaults": (T2V, T2V | {
        "resolution": "720p", "aspect_ratio": "16:9", "duration": 5, "audio": False, "priority": 0,
        "metadata": {},
    }),
    "nulls": (T2V, T2V | {"model": None, "image": None, "provider": None, "deadline": None}),
    "size": (T2V | {"size": "1080x1080"}, T2V | {"resolution": "1080p", "aspect_ratio": "1:1"}),
    "size with an image": (I2V | {"size": "1920x1080"}, I2V | {"resolution": "1080p"}),
    "input_reference": (I2V, {"prompt": "a", "input_reference": {"image_url": URL}}),
    "one provider": (T2V | {"provider": "highway"}, T2V | {"provider": ["highway"]}),
    "length of shots": ({"shots": shots(2, 2)}, {"shots": shots(2, 2), "duration": 4}),
    "whole cfg_scale": (T2V | {"cfg_scale": 1}, T2V | {"cfg_scale": 1.0}),
}  # fmt: skip
OTHER: Final[dict[str, Body]] = {
    "prompt": {"prompt": "b"},
    "prompt in shots": {"shots": shots(5)},
    "negative prompt": T2V | {"negative_prompt": ""},
    "model named": T2V | {"model": "kling-v3"},
    "another model": T2V | {"model": "kling-v3-turbo"},
    "resolution": T2V | {"resolution": "1080p"},
    "aspect ratio": T2V | {"aspect_ratio": "1:1"},
    "duration": T2V | {"duration": 6},
    "audio": T2V | {"audio": True},
    "voices": VOICED | {"voice_ids": ["x"]},
    "cfg_scale": T2V | {"cfg_scale": 0},
    "image": I2V,
    "another image": T2V | {"image": URL + "2"},
    "image as data": T2V | {"image": data_uri(png(300, 300))},
    "image as other data": T2V | {"image": data_uri(png(300, 301))},
    "end image": I2V | {"end_image": URL},
    "provider": T2V | {"provider": "highway"},
    "providers": T2V | {"provider": ["highway", "myrouter"]},
    "providers in another order": T2V | {"provider": ["myrouter", "highway"]},
    "priority": T2V | {"priority": 1},
    "metadata": T2V | {"metadata": {"k": "v"}},
    "deadline": T2V | {"deadline": 60},
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_request_has_the_same_fingerprint(name: str) -> None:
    one, other = SAME[name]
    assert read(one).fingerprint == read(other).fingerprint


def test_every_other_request_has_another_fingerprint() -> None:
    prints = [read(body).fingerprint for body in (T2V, *OTHER.values())]
    assert len(set(prints)) == len(prints)
    assert {len(each) for each in prints} == {64}


def test_a_new_default_model_breaks_no_replay() -> None:
    later = Known(KNOWN.models, KNOWN.providers, "kling-v3-turbo")
    assert read(T2V).fingerprint == read(T2V, later).fingerprint
    assert read(T2V, later).request.model == "kling-v3-turbo"


def test_the_fingerprint_holds_from_one_release_to_the_next() -> None:
    """Keys live for days: if this fails, replays of requests from before an update would be refused."""
    assert read(T2V).fingerprint == "750f64743f6ee06d0ce874ea3215fb9f8c0aa4696fc2bb076d36542ea87b49a9"
