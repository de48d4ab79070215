"""Images as a create names them: which are taken, which are refused and why, and where that is said.

Not held here: where an image may stand among other fields (test_wire).
"""

from __future__ import annotations

from typing import Final

import pytest

from tests.api.bodies import T2V, Body, data_uri, jpeg, mistakes, png, read

BIG: Final = 10_000_000
IMAGES: Final[dict[str, str]] = {
    "http": "http://files.example/a.png",
    "https with port, path and query": "https://files.example:8443/a%20b.png?x=1&y=@#z",
    "address": "http://192.0.2.1/a.png",
    "ipv6": "http://[2001:db8::1]/a.png",
    "upper case scheme": "HTTPS://files.example/a.png",
    "2048 characters": "https://files.example/".ljust(2048, "a"),
    "png": data_uri(png(300, 300)),
    "jpeg": data_uri(jpeg(640, 480), "image/jpeg"),
    "jpeg behind metadata": data_uri(jpeg(640, 480, b"\xff\xe2\xff\xff" + bytes(65_533)), "image/jpeg"),
    "1:2.5": data_uri(png(400, 1000)),
    "2.5:1": data_uri(png(1000, 400)),
    "10 MB": data_uri(png(300, 300, BIG)),
}
NO_IMAGES: Final[dict[str, tuple[str, str]]] = {
    "empty": ("", "Give an http or https URL"),
    "ftp": ("ftp://files.example/a.png", "Give an http or https URL"),
    "relative": ("/a.png", "Give an http or https URL"),
    "file": ("file:///etc/passwd", "Give an http or https URL"),
    "no host": ("https:///a.png", "no valid host"),
    "only a port": ("https://:80/a.png", "no valid host"),
    "port too large": ("https://files.example:65536/", "no valid host"),
    "port no number": ("https://files.example:x/", "no valid host"),
    "bad brackets": ("https://[files.example/", "no valid host"),
    "user": ("https://me@files.example/", "user name or password"),
    "user and password": ("https://me:secret@files.example/", "user name or password"),
    "space": ("https://files.example/a b.png", "percent-encode"),
    "line break": ("https://files.example/\n", "percent-encode"),
    "tab in the scheme": ("ht\ttps://files.example/", "Give an http or https URL"),
    "backslash": ("https://files.example\\@evil.example/", "percent-encode"),
    "zero width space": ("https://files.example/\u200b", "percent-encode"),
    "2049 characters": ("https://files.example/".ljust(2049, "a"), "longer than 2048"),
    "gif": (data_uri(b"GIF89a", "image/gif"), "Give an http or https URL"),
    "jpg": (data_uri(jpeg(640, 480), "image/jpg"), "Give an http or https URL"),
    "svg": (data_uri(b"<svg/>", "image/svg+xml"), "Give an http or https URL"),
    "no base64": ("data:image/png,abc", "Give an http or https URL"),
    "no comma": ("data:image/png;base64", "are not those of a PNG"),
    "with a parameter": ("data:image/png;name=a;base64,aaaa", "Give an http or https URL"),
    "empty data": ("data:image/png;base64,", "are not those of a PNG"),
    "url-safe alphabet": ("data:image/png;base64,_-__", "strict base64"),
    "padding missing": ("data:image/png;base64,aaa", "strict base64"),
    "padding in the middle": ("data:image/png;base64,aa==aaaa", "strict base64"),
    "line break in data": ("data:image/png;base64,aaaa\naaaa", "strict base64"),
    "beyond ASCII": ("data:image/png;base64,\xe4aaa", "strict base64"),
    "png said to be jpeg": (data_uri(png(300, 300), "image/jpeg"), "are not those of a JPEG"),
    "jpeg said to be png": (data_uri(jpeg(300, 300)), "are not those of a PNG"),
    "png cut short": (data_uri(png(300, 300)[:20]), "broken"),
    "png without a header": (data_uri(b"\x89PNG\r\n\x1a\n" + bytes(99)), "broken"),
    "jpeg cut short": (data_uri(jpeg(300, 300)[:9], "image/jpeg"), "broken"),
    "jpeg without a frame": (data_uri(b"\xff\xd8\xff\xd9", "image/jpeg"), "broken"),
    "jpeg of nothing": (data_uri(b"\xff\xd8\xff" + bytes(9999), "image/jpeg"), "broken"),
    "no width": (data_uri(png(0, 300)), "broken"),
    "299 wide": (data_uri(png(299, 300)), "at least 300"),
    "299 high": (data_uri(jpeg(300, 299), "image/jpeg"), "at least 300"),
    "beyond 1:2.5": (data_uri(png(400, 1001)), "ratio"),
    "beyond 2.5:1": (data_uri(png(1001, 400)), "ratio"),
    "10 MB and a byte": (data_uri(png(300, 300, BIG + 1)), "larger than 10000000 bytes"),
    "10 MB and a group": (data_uri(png(300, 300, BIG + 3)), "larger than 10000000 bytes"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_image_is_taken_and_passed_on_as_it_is(name: str) -> None:
    assert read(T2V | {"image": IMAGES[name]}).request.image == IMAGES[name]


@pytest.mark.parametrize("name", NO_IMAGES)
def test_image_is_refused_with_the_reason(name: str) -> None:
    value, words = NO_IMAGES[name]
    found = mistakes(T2V | {"image": value})
    assert list(found) == ["/image"]
    assert words in found["/image"]


def test_both_images_are_checked_where_they_stand() -> None:
    first = {"image_url": data_uri(png(9, 300))}
    found = mistakes({"prompt": "a", "input_reference": first, "end_image": "x"})
    assert list(found) == ["/input_reference/image_url", "/end_image"]


@pytest.mark.parametrize(("width", "fits"), [(979, False), (981, True), (1019, True), (1021, False)])
def test_size_may_be_two_percent_off_an_image_that_can_be_seen(width: int, fits: bool) -> None:
    body: Body = T2V | {"image": data_uri(png(width, 1000)), "size": "720x720"}
    if fits:
        assert read(body).request.aspect_ratio is None
    else:
        assert list(mistakes(body)) == ["/size"]
