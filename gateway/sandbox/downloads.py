"""Result files: the checks on a link, HEAD, ranges and ETags. Not held here: how a clip is made (`media`)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

import msgspec

from gateway.sandbox import faults
from gateway.sandbox.media import Clips, Spec
from gateway.sandbox.renders import Task, World
from gateway.sandbox.vendor import Outcome, Vendor
from gateway.sandbox.wire import Answer, Request

_PATH = re.compile(r"/files/([a-z]+)/([0-9a-f]+)\.mp4")
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_PLAIN = (("content-type", "text/plain"),)
_XML = (("content-type", "application/xml"),)
_DENIED = b"<Error><Code>AccessDenied</Code><Message>%s</Message></Error>"


async def download(request: Request, world: World, vendors: Mapping[str, Vendor], clips: Clips) -> Outcome:
    """Answer a request for a result file, faults included. An expired link is 403, as at object stores."""
    if request.method not in {"GET", "HEAD"}:
        return Outcome(answer=Answer(status=405, headers=(("allow", "GET, HEAD"),), body=b""))
    found = _PATH.fullmatch(request.path)
    task = world.files.get((found[1], found[2])) if found else None
    expires, signature = (request.query.get(name, "") for name in ("expires", "signature"))
    state = world.link_state(request.path, expires, signature)
    if state != "good":
        text = b"Request has expired" if state == "expired" else b"The signature does not match"
        return Outcome(answer=Answer(status=403, headers=_XML, body=_DENIED % text))
    if task is None or world.view(task).state != "succeeded":
        return Outcome(answer=Answer(status=404, headers=_PLAIN, body=b"no such file"))
    struck = faults.take([*world.armed, *task.faults], task.vendor, "download", world.clock.time())
    clip = await clips.get(spec(task))
    headers = (("content-type", "video/mp4"), ("accept-ranges", "bytes"), ("etag", f'"{_digest(clip)}"'))
    outcome = vendors[task.vendor].finish(struck, Answer(status=200, headers=headers, body=clip))
    return msgspec.structs.replace(outcome, answer=_ranged(outcome.answer, request.headers))


def spec(task: Task) -> Spec:
    """The clip a task asked for."""
    width, height = task.size
    order = task.order
    return Spec(width=width, height=height, duration=order.duration, audio=order.audio, words=task.words)


def _digest(clip: bytes) -> str:
    return hashlib.sha256(clip).hexdigest()[:32]


def _ranged(answer: Answer, headers: Mapping[str, str]) -> Answer:
    """The part that was asked for; the whole where ranges are not known, not read, or of an older file."""
    known = dict(answer.headers)
    asked = _RANGE.fullmatch(headers.get("range", ""))
    if asked is None or asked.groups() == ("", "") or "accept-ranges" not in known:
        return answer
    if headers.get("if-range", known["etag"]) != known["etag"]:
        return answer
    size = len(answer.body)
    first, last = asked.groups()
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    if start >= stop:
        header = ("content-range", f"bytes */{size}")
        return Answer(status=416, headers=(*_PLAIN, header), body=b"no such range")
    header = ("content-range", f"bytes {start}-{stop - 1}/{size}")
    return Answer(status=206, headers=(*answer.headers, header), body=answer.body[start:stop])
