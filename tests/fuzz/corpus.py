"""Good inputs, of which bad ones are made: bodies, headers, queries, answers, configurations, files.

Not held here: who reads them (`parsers`, `requests`), and how they are changed (`mutating`).
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from gateway.api.wire import CreateBody
from providers.spec import AdapterInfo
from tests.api.bodies import data_uri, jpeg, png
from tests.contract.recorded import filled, load

URL: Final = "https://files.example/first.png"
BOUNDARY: Final = "x-y-1"
VIDEO: Final = "video_" + "0" * 32
FILE: Final = "file_" + "0" * 32
KEY: Final = b"rg_dovTFGyk7k1cpp4tFLjFgKrHPneHyknbqYC4"  # as one looks; nobody has it


def _json(values: Iterable[object]) -> tuple[bytes, ...]:
    return tuple(json.dumps(value, ensure_ascii=False).encode() for value in values)


CREATES: Final = _json((
    {"prompt": "a fox"},
    {"prompt": "a", "image": data_uri(png(640, 480)), "end_image": data_uri(jpeg(640, 480), "image/jpeg")},
    {"prompt": "<<<voice_1>>> sings", "audio": True, "voice_ids": ["v-1"], "model": "kling-v3", "seconds": 5},
    {"shots": [{"prompt": "a", "duration": 3}, {"prompt": "b", "duration": 4}], "resolution": "720p"},
    {"prompt": "«Ünïcödé» 🎬\n\\", "negative_prompt": "blur", "aspect_ratio": "9:16", "cfg_scale": 0.5},
    {"prompt": "x", "provider": ["highway", "myrouter"], "priority": -10, "deadline": 60,
     "metadata": {"team": "film", "a[b]": ""}},
    {"prompt": "x", "seconds": "4", "size": "1280x720", "input_reference": {"image_url": URL}},
    {"prompt": "x", "webhook_url": "https://hooks.example/here?x=1"},
    dict.fromkeys(CreateBody.__struct_fields__) | {"prompt": "x"},
))  # fmt: skip
RESOLVES: Final = _json((
    {"action": "adopt", "vendor_task_id": "task-1"}, {"action": "fail"}, {"action": "resubmit"},
))  # fmt: skip
ENDPOINTS: Final = _json((
    {"url": "https://hooks.example/here"},
    {"url": "https://hooks.example:8443/h?x=%20", "events": ["video.completed", "video.failed"]},
))  # fmt: skip
ROTATIONS: Final = _json(({}, {"overlap": 0}, {"overlap": 86_400}))
REPLAYS: Final = _json(({"id": "msg_" + "0" * 32}, {"since": 0}, {"since": 1.5, "until": 2_000_000_000}))
NEW_KEYS: Final = _json((
    {"name": "alice"}, {"name": "bob", "role": "operator", "expires_in": 60, "providers": ["highway"]},
    {"name": "c", "limits": {"requests_per_minute": 5, "money_per_day": "10.00"}, "scopes": ["videos:read"]},
    {"name": "d", "team": "film", "models": ["kling-v3"], "limits": {"currency": "EUR", "max_queued": 1}},
))  # fmt: skip
OBJECTS: Final = _json((
    {}, {"overlap": 60}, {"seconds": 60, "disposition": "inline"}, [], 7, "x", None,
))  # fmt: skip


def _part(name: str, content: bytes, more: str = "") -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'
    return head.encode() + content + b"\r\n"


_FORM: Final = f"multipart/form-data; boundary={BOUNDARY}\n".encode()
_END: Final = f"--{BOUNDARY}--\r\n".encode()
_PICTURE: Final = '; filename="a.png"\r\nContent-Type: image/png'
# The Content-Type, a line break, and the body.
FORMS: Final = (
    _FORM + _part("prompt", b"a fox") + _part("duration", b"5") + _part("audio", b"true") + _END,
    _FORM + _part("prompt", b"x") + _part("image", png(640, 480), _PICTURE) + _END,
    _FORM + _part("shots[][prompt]", b"a") + _part("shots[][duration]", b"3") + _part("shots[][prompt]", b"b")
    + _part("metadata[team]", b"film") + _part("provider[]", b"highway") + _END,
    _FORM + _part("shots[0][prompt]", b"a") + _part("shots[0][duration]", b"5") + _part("cfg_scale", b".5e0")
    + _END,
    _FORM + _part("metadata", b'{"a": "b"}') + _part("shots", b'[{"prompt": "a", "duration": 5}]') + _END,
    _FORM + _part("file", jpeg(640, 480), '; filename="b.jpg"') + _part("purpose", b"vision") + _END,
    b"application/json\n" + CREATES[0],
)
QUERIES: Final = (
    b"", b"limit=5&order=asc", b"after=" + VIDEO.encode(), b"status=completed&stage=stored&model=kling-v3",
    b"created_after=1&created_before=2000000000&provider=highway", b"metadata[team]=film&metadata%5Ba%5D=%20",
    b"wait=0", b"wait=1", b"last_event_id=3", b"last_event_id=00000000-5,3", b"detach=true", b"variant=video",
    b"action=provider.paused&actor=key_1&target=highway", b"expires=2000000000&signature=" + b"A" * 43,
    b"start=2026-11-01&end=2026-11-21&group_by=day,model&scope=all&format=csv", b"end=0001-01-01",
)  # fmt: skip
IMAGES: Final = (
    URL.encode(), b"http://files.example:8080/a%20b.jpg?x=1#y", data_uri(png(640, 480, 400)).encode(),
    data_uri(jpeg(640, 480, b"\xff\xe0\x00\x10JFIF\0" + bytes(9)), "image/jpeg").encode(),
    data_uri(png(300, 750)).encode(),
)  # fmt: skip
PICTURES: Final = (
    png(640, 480, 200), jpeg(640, 480), jpeg(640, 480, b"\xff\xe1\x00\x20Exif\0\0MM\0*" + bytes(20)),
    jpeg(9, 9, b"\xff\xdb\x00\x04\0\0" * 5),
)  # fmt: skip
HEADERS: Final[Mapping[str, tuple[bytes, ...]]] = {
    "Authorization": (b"Bearer " + KEY, b"Basic dTpw", b"bearer  rg_x", b""),
    "Prefer": (b"wait=1", b"respond-async, wait=0", b'wait="1"; x=y', b"return=minimal"),
    "Idempotency-Key": (b"order-1", b'"order-1"', b"a" * 255),
    "Range": (b"bytes=0-99", b"bytes=5-", b"bytes=-5", b"bytes=0-1,5-6"),
    "If-None-Match": (b'"abc"', b'W/"abc", "def"', b"*"),
    "If-Range": (b'"abc"', b'W/"abc"', b"Sat, 21 Nov 2026 21:00:00 GMT"),
    "Last-Event-ID": (b"5", b"00c0ffee-17,3,5", b"00c0ffee-17,3/3/video_0/2"),
    "Content-Type": (b"application/json", b"text/plain; charset=utf-16", _FORM[:-1]),
    "Content-Encoding": (b"gzip", b"identity"),
    "Accept": (b"*/*", b"text/event-stream", b"application/json;q=0"),
    "Host": (b"127.0.0.1", b"localhost:8080", b"[::1]:1"),
    "Origin": (b"http://localhost", b"null", b"https://evil.example"),
    "X-Request-Id": (b"req-1", b"a" * 128),
    "X-Forwarded-For": (b"203.0.113.1, 10.0.0.1", b"[2001:db8::1]:99", b"unknown"),
    "X-Forwarded-Host": (b"evil.example",),
    "Transfer-Encoding": (b"chunked", b"identity", b"gzip, chunked"),
    "Expect": (b"100-continue",),
    "Cookie": (b"a=b; c=d",),
    "Traceparent": (b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01",),
    "X-HTTP-Method-Override": (b"DELETE",),
    "Access-Control-Request-Method": (b"POST",),
}  # fmt: skip
URLS: Final = (
    b"https://hooks.example/here", b"http://127.0.0.1:8080/x", b"https://[::ffff:10.0.0.1]/", b"//f.example",
    b"https://user:word@files.example:443/a?b#c", b"https://xn--bcher-kva.example./", b"https://0x7f.1/",
    "https://bücher.example/ä".encode(), b"https://169.254.169.254/latest/",
)  # fmt: skip
POSITIONS: Final = (
    b"00c0ffee-17", b"00c0ffee-17,3,5", b"00c0ffee-17,3,5/3/video_0/2", b"deadbeef-" + b"9" * 18,
)  # fmt: skip
SIGNED: Final = (b"2000000000\n" + b"A" * 43, b"1\n" + b"-_" * 20, b"999999999999\n=")
PEERS: Final = (
    b"10.0.0.1\n203.0.113.1, 10.0.0.2", b"::1\n[2001:db8::1]:99,10.0.0.2", b"192.0.2.1\n", b"\n127.0.0.1:80",
)  # fmt: skip
RETRIES: Final = (
    b"5", b"1.5", b"-3", b"Sat, 21 Nov 2026 21:00:00 GMT", b"Saturday, 21-Nov-26 21:00:00 +0100", b"soon",
)  # fmt: skip
NEWS: Final = _json((
    {"type": "video", "id": VIDEO, "version": 3, "state": "rendering", "replica": "r-1", "owner": "key_1"},
    {"type": "order", "provider": "highway", "is_lifted": True}, {"type": "key", "id": "key_1"},
    {"type": "callback", "id": VIDEO, "replica": "r-1"}, {"type": "webhooks"}, {"type": "of tomorrow"},
))  # fmt: skip


def _box(kind: bytes, size: int = 8, *, is_large: bool = False) -> bytes:
    short, long = (b"\0\0\0\1", size.to_bytes(8, "big")) if is_large else (size.to_bytes(4, "big"), b"")
    head = short + kind + long
    return head + bytes(size - len(head))


FILMS: Final = (
    _box(b"ftyp", 24) + _box(b"moov", 100) + _box(b"mdat", 500),
    _box(b"ftyp", 24) + _box(b"free", 8) + _box(b"mdat", 500, is_large=True) + _box(b"moov", 100),
    _box(b"ftyp", 24) + _box(b"moov", 100) + b"\0\0\0\0mdat" + bytes(300),
)
# Status, header lines, an empty line, the body.
FILE_ANSWERS: Final = (
    b'200\nContent-Length: 624\nContent-Type: video/mp4\nETag: "a"\n\n' + FILMS[0],
    b"206\nContent-Range: bytes 0-623/624\nContent-Length: 624\n\n" + FILMS[0],
    b"416\nContent-Range: bytes */624\n\n", b"302\nLocation: https://cdn.example/b.mp4\n\n",
    b"301\nLocation: ../c?d=e\n\n", b"404\nContent-Type: text/html\n\ngone", b"503\nRetry-After: 5\n\n",
    b"200\nTransfer-Encoding: chunked\nContent-Encoding: gzip\n\n" + gzip.compress(b"x"),
)  # fmt: skip
_ODD_BODIES: Final = (
    b"", b"null", b"[]", b"<html>200</html>", b"[" * 9_999, b"\xef\xbb\xbf{}", gzip.compress(b"{}"),
    '{"task": {"status": "排队中"}}'.encode(),
)  # fmt: skip


def vendor_answers(info: AdapterInfo) -> tuple[bytes, ...]:
    """What is recorded of a vendor, good and bad, and what simulators make of it, as FILE_ANSWERS."""
    answers = load(info).answers
    said = [*answers.created, *answers.not_created, *answers.unreadable]
    said += [poll.answer for poll in answers.polls.values()]
    good = [b"200\n\n" + json.dumps(filled(each, ID="c0ffee", STATUS=200)).encode() for each in said]
    for reason, status, *_ in answers.errors:
        shape = answers.error_bodies[len(good) % len(answers.error_bodies)]
        body = filled(shape, STATUS=status, REASON=reason)
        good.append(f"{status}\nRetry-After: 3\n\n".encode() + json.dumps(body).encode())
    good += [f"{status}\n\n{text}".encode() for status, text, *_ in answers.texts]
    return (*good, *(b"200\n\n" + body for body in _ODD_BODIES))


_PROVIDER: Final = '[providers.{name}]\nadapter = "{adapter}"\napi_key = {{ env = "KEY" }}\n'
_SMALL: Final = _PROVIDER.format(name="highway", adapter="highwayapi")
CONFIGURATIONS: Final = tuple(text.encode() for text in (
    _SMALL,
    '[server]\nlisten = "[::1]:8080"\npublic_url = "https://video.example/x"\n'
    'trusted_proxies = ["10.0.0.0/8"]\nbase_path = "/reelgate"\ncors_origins = ["https://a.example"]\n'
    + _SMALL,
    '[auth]\nmode = "off"\n[store]\nurl = "postgresql://u:p@db.example/x?sslmode=require"\n'
    '[files]\nurl = "s3://bucket/prefix"\nretention = "1.5h"\nredirect = true\n' + _SMALL,
    '[log]\nlevel = "debug"\nformat = "json"\n[routing]\nstrategy = "cheapest"\ndeadline = "6h"\n'
    'rerun_failed = 5\nrerun_cost_limit = "2.50"\n' + _SMALL
    + '[providers.highway.prices]\n"kling-v3.0-std-t2v" = [{ resolution = "720p", per_second = "0.084" }, '
    '{ per_request = "0.01", currency = "EUR" }]\n',
    '[webhooks]\nsecrets = [{ env = "HOOK" }]\n[egress]\nallow = ["10.0.0.0/8", "::1", "a.internal"]\n'
    'proxy = "http://proxy.internal:3128"\n' + _SMALL + 'max_in_flight = 20\nweight = 0.5\n'
    'offerings = ["*"]\nbase_url = "http://10.1.2.3:99/p"\n',
    '[teams.film]\nmoney_per_day = "10.00"\nrequests_per_minute = 5\nproviders = ["highway"]\n' + _SMALL,
    _PROVIDER.format(name="u", adapter="unified") + 'base_url = "https://u.example"\n' + _SMALL,
))  # fmt: skip
EXAMPLE: Final = (Path(__file__).parents[2] / "deploy/config.example.toml").read_bytes()
ENVIRONMENT: Final = {"KEY": "sk-0123456789", "HOOK": "whsec_" + "QUFB" * 8}
CANARY: Final = "canary"
SECRETS: Final = (
    b"sk-canary-1", b"whsec_canary", b"whsec_" + b"QUFB" * 8, b"http://u:canary@proxy.example:3128",
    b"postgresql://u:canary@db.example/x?sslmode=require", b"postgresql://u:canary@[::1]:5432/x",
    b"sqlite:a.db",
)  # fmt: skip
VALUES: Final = (
    b"500ms", b"1.5h", b"0.084", b"127.0.0.1:8080", b"[::1]:0", b"https://video.example/x/", b"sqlite:a.db",
    b"postgresql://u:p@h/d", b"file:videos", b"s3://bucket/prefix/", b"off", b"10.0.0.0/8", b"video.internal",
    b"/reelgate", b"https://app.example", b"whsec_" + b"QUFB" * 8, b"sk-0123456789", b"http://u:p@proxy:3128",
)  # fmt: skip
