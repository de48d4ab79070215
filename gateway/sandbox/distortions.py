"""Right transport, wrong content: functions that bend an answer, or what a poll is about to say.

Not held here: when which is chosen (`faults`), and faults of the socket (`wire`).
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from typing import Literal, TypeAlias

import msgspec

from gateway.sandbox.wire import Answer, Call

_STATUS_WORD = re.compile(rb'("status":\s*")([^"]*)(")')
# What one vendor's status words could be called in its own country.
_LOCALIZED = {
    "QUEUED": "排队中", "PROCESSING": "处理中", "SUCCEED": "已完成", "FAILED": "失败",
    "pending": "排队中", "processing": "处理中", "completed": "已完成", "failed": "失败",
}
_HTML = b"<!doctype html><html><title>Service</title><body><h1>Please try again later</h1></body></html>"


class View(msgspec.Struct, frozen=True, kw_only=True):
    """A task as a poll is about to tell it, in no vendor's words. `progress` 0..100, `eta_seconds` from now.

    `videos` is the number of result links, None where the list itself is missing. `code` goes with a
    failure's `reason` where the vendor has codes for it.
    """

    state: Literal["queued", "processing", "succeeded", "failed"]
    progress: float
    eta_seconds: float
    reason: str = ""
    code: str = ""
    videos: int | None = None
    link_seconds: float | None = None
    link_dead: bool = False


Bend: TypeAlias = Callable[[Answer, Call], Answer]
Retell: TypeAlias = Callable[[View, Call], View]


def body(make: Callable[[bytes, Call], bytes], content_type: str = "application/json") -> Bend:
    """Another body under the same status; of the headers only the content type stays, as given."""

    def bend(answer: Answer, call: Call) -> Answer:
        made = make(answer.body, call)
        return msgspec.structs.replace(answer, headers=(("content-type", content_type),), body=made)

    return bend


def status(answer: Answer, call: Call) -> Answer:
    """The same body under another status; 204 and 304 have none."""
    code = int(call.args["code"])
    return msgspec.structs.replace(answer, status=code, body=b"" if code in {204, 304} else answer.body)


def redirect(_answer: Answer, call: Call) -> Answer:
    """Somebody else's address instead of an answer."""
    return Answer(status=int(call.args["code"]), headers=(("location", str(call.args["to"])),), body=b"")


def maintenance(_answer: Answer, _call: Call) -> Answer:
    """A page for people, from a proxy in front of the vendor."""
    return Answer(status=503, headers=(("content-type", "text/html"),), body=_HTML)


def gzip_bomb(answer: Answer, call: Call) -> Answer:
    """A small body that unpacks to `bytes` bytes."""
    packed = gzip.compress(b" " * int(call.args["bytes"]), compresslevel=1)
    headers = (*answer.headers, ("content-encoding", "gzip"))
    return msgspec.structs.replace(answer, headers=headers, body=packed)


def stacked_encodings(answer: Answer, call: Call) -> Answer:
    """The right body, packed `count` times over, and a header that says so."""
    packed, count = answer.body, int(call.args["count"])
    for _ in range(count):
        packed = gzip.compress(packed)
    header = ("content-encoding", ", ".join(["gzip"] * count))
    return msgspec.structs.replace(answer, headers=(*answer.headers, header), body=packed)


def status_word(change: Callable[[str, Call], str]) -> Bend:
    """The same task under another word for its status."""

    def bend(answer: Answer, call: Call) -> Answer:
        def swap(found: re.Match[bytes]) -> bytes:
            return found[1] + change(found[2].decode(), call).encode() + found[3]

        return msgspec.structs.replace(answer, body=_STATUS_WORD.sub(swap, answer.body, count=1))

    return bend


def localized(word: str, _call: Call) -> str:
    """The status in the language of the vendor's engineers."""
    return _LOCALIZED.get(word.removeprefix("TASK_STATUS_"), "未知")


def task_id(change: Callable[[str, Call], object]) -> Bend:
    """The same acceptance under another id; None takes the id out."""

    def bend(answer: Answer, call: Call) -> Answer:
        told = json.loads(answer.body)
        name = "task_id" if "task_id" in told else "id"
        if name not in told:
            return answer
        made = change(told.pop(name), call)
        told |= {} if made is None else {name: made}
        return msgspec.structs.replace(answer, body=json.dumps(told).encode())

    return bend


def html(_body: bytes, _call: Call) -> bytes:
    """A page for people."""
    return _HTML


def duplicate_keys(original: bytes, _call: Call) -> bytes:
    """The same object with its first member written twice, the second time as null."""
    told = json.loads(original)
    name = next(iter(told))
    return original[:-1] + f', "{name}": null}}'.encode()


def nested(_body: bytes, call: Call) -> bytes:
    """Arrays in arrays."""
    depth = int(call.args["depth"])
    return b"[" * depth + b"]" * depth


def huge_number(_body: bytes, call: Call) -> bytes:
    """A number with very many digits."""
    digits = b"9" * int(call.args["digits"])
    return b'{"id": ' + digits + b', "task_id": ' + digits + b"}"


def without_ranges(answer: Answer, _call: Call) -> Answer:
    """A file whose server does not know ranges."""
    kept = tuple(header for header in answer.headers if header[0] != "accept-ranges")
    return msgspec.structs.replace(answer, headers=kept)


def other_bytes(answer: Answer, call: Call) -> Answer:
    """Another file on every try, all of them playable: a `free` box of another length and its own ETag."""
    extra = 8 + call.used + 1
    box = extra.to_bytes(4, "big") + b"free" + bytes(extra - 8)
    kept = (header for header in answer.headers if header[0] != "etag")
    headers = (*kept, ("etag", f'"try-{call.used}"'))
    return msgspec.structs.replace(answer, headers=headers, body=answer.body + box)


def stuck(view: View, _call: Call) -> View:
    """Queued, whatever the time."""
    return msgspec.structs.replace(view, state="queued", progress=0, videos=None, reason="")


def failed(view: View, call: Call) -> View:
    """A render that fails when it would have been done."""
    if view.state != "succeeded":
        return view
    reason, code = str(call.args["reason"]), str(call.args["code"])
    return msgspec.structs.replace(view, state="failed", reason=reason, code=code, videos=None)


def backwards(view: View, call: Call) -> View:
    """Done without a video at first, then in the queue again, then as it really is."""
    if call.used == 0:
        return msgspec.structs.replace(view, state="succeeded", progress=100, videos=0)
    return stuck(view, call)


def flapping(view: View, call: Call) -> View:
    """Queued and processing in turn until it is done."""
    if view.state in {"succeeded", "failed"}:
        return view
    return msgspec.structs.replace(view, state="queued" if call.used % 2 else "processing")


def jumping_progress(view: View, call: Call) -> View:
    """80, then 20, then 150, then -5, and so on."""
    return msgspec.structs.replace(view, progress=(80, 20, 150, -5)[call.used % 4])


def videos(count: int | None) -> Retell:
    """Done with another number of videos: None leaves out the list, 0 leaves it empty."""

    def retell(view: View, _call: Call) -> View:
        return msgspec.structs.replace(view, videos=count) if view.state == "succeeded" else view

    return retell


def dead_link(view: View, _call: Call) -> View:
    """A link that leads nowhere."""
    return msgspec.structs.replace(view, link_dead=True)


def short_link(view: View, call: Call) -> View:
    """A link that dies earlier than the vendor says."""
    return msgspec.structs.replace(view, link_seconds=float(call.args["seconds"]))
