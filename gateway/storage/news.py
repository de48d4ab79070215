"""What replicas tell each other through the database: short texts, sent with the commit that they speak of.

A text is lost when nobody listens; whoever needs to know reads the rows again when something may have been
missed. Not held here: how a text travels (`db` and the drivers).
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

from gateway.core.states import TERMINAL, UNOWNED, State, Task


class VideoChanged(msgspec.Struct, frozen=True, tag="video"):
    """A video is now of this version and state; `replica` follows it.

    `owner` is the caller that it belongs to; '' from a replica of a version that does not tell.
    """

    id: str
    version: int
    state: State
    replica: str
    owner: str = ""

    @property
    def has_ended(self) -> bool:
        """Whether nothing can change its status any more."""
        return self.state in TERMINAL

    @property
    def is_unowned(self) -> bool:
        """Whether somebody should take it."""
        return self.replica == UNOWNED


class Ordered(msgspec.Struct, frozen=True, tag="order"):
    """An operator's order for a provider was stored, or lifted (`is_lifted`)."""

    provider: str
    is_lifted: bool


class WebhooksDue(msgspec.Struct, frozen=True, tag="webhooks"):
    """A caller asked for webhooks to be sent anew, or for a test."""


class KeyChanged(msgspec.Struct, frozen=True, tag="key"):
    """A caller's key was revoked, or given another secret."""

    id: str


class CalledBack(msgspec.Struct, frozen=True, tag="callback"):
    """A vendor called about a video's job; `replica` owns the video."""

    id: str
    replica: str


News: TypeAlias = VideoChanged | Ordered | WebhooksDue | CalledBack | KeyChanged

_encode: Final = msgspec.json.Encoder().encode
_decoder: Final[msgspec.json.Decoder[News]] = msgspec.json.Decoder(
    VideoChanged | Ordered | WebhooksDue | CalledBack | KeyChanged
)


def of_video(task: Task) -> str:
    """What is told when `task` was saved as it is."""
    return _encode(VideoChanged(task.id, task.version, task.state, task.replica, task.owner)).decode()


def of_order(provider: str, *, is_lifted: bool) -> str:
    """What is told when an order was stored or lifted."""
    return _encode(Ordered(provider, is_lifted)).decode()


def of_webhooks() -> str:
    """What is told when webhooks were made due by hand."""
    return _encode(WebhooksDue()).decode()


def of_key(key_id: str) -> str:
    """What is told when a caller's key was revoked or given another secret."""
    return _encode(KeyChanged(key_id)).decode()


def of_callback(video_id: str, replica: str) -> str:
    """What is told when a vendor called about a job that another replica follows."""
    return _encode(CalledBack(video_id, replica)).decode()


def read(text: str) -> News | None:
    """The news in `text`; None when a newer version of this program speaks of what this one does not know."""
    try:
        return _decoder.decode(text)
    except msgspec.MsgspecError:
        return None
