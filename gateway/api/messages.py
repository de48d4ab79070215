"""What a webhook says: its body, made once for each message.

Not held here: what a video looks like (`shapes`), signing and sending (`gateway.engine.webhooks`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from operator import attrgetter
from typing import Final

import msgspec

from gateway.api.shapes import TimelineList, VideoObject, encode, video_object
from gateway.storage.rows import Video
from gateway.storage.webhook_endpoints import VideoTry

TRIES_FROM: Final = 1_000_000  # where their numbers on a timeline begin: no video's own events come so far


class WebhookObject(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a webhook. `timestamp` is when the event happened (ISO 8601); `data` as it was then."""

    type: str
    timestamp: str
    data: VideoObject


class TrialData(msgspec.Struct, frozen=True, kw_only=True):
    """What a test event tells."""

    endpoint_id: str


class TrialObject(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a test event."""

    type: str
    timestamp: str
    data: TrialData


def body_of(kind: str, at: float, video: Video) -> bytes:
    """The body of a message of this type; `at` in Unix seconds."""
    return encode(WebhookObject(type=kind, timestamp=_iso(at), data=video_object(video)))


def trial_body(kind: str, at: float, endpoint_id: str) -> bytes:
    """The body of a test event."""
    return encode(TrialObject(type=kind, timestamp=_iso(at), data=TrialData(endpoint_id=endpoint_id)))


def with_tries(timeline: TimelineList, tries: Sequence[VideoTry]) -> TimelineList:
    """A timeline with the tries to tell of its video's events among them, by time.

    They are no events of the video: numbered apart, and with the status and stage it had then.
    """
    if not tries:
        return timeline
    shown = list(timeline.data)
    for number, one in enumerate(tries):
        before = [event for event in timeline.data if event.at <= round(one.made.at, 3)] or timeline.data
        if not before:
            break  # the video was deleted meanwhile
        detail: dict[str, str | int | float | None] = {
            "event": one.type, "message": one.message_id, "endpoint": one.endpoint or None,
            "try": one.number, "http_status": one.made.status, "error": one.made.error, "ms": one.made.ms,
        }
        shown.append(msgspec.structs.replace(
            before[-1], seq=TRIES_FROM + number, at=round(one.made.at, 3), type="webhook_try", detail=detail,
        ))
    return TimelineList(data=sorted(shown, key=attrgetter("at", "seq")))


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
