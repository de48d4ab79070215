"""The language between the gateway and its adapters: plain types and protocols, and nothing that acts.

Held here: what a caller may ask for (`VideoRequest`), what a vendor offers (`Offering`, constraints as data),
what a submit or a poll can say (`Submitted`, `Progress`, `VendorError`), and what an adapter is (`Adapter`,
`AdapterInfo`). Not held here: HTTP (`providers.http`), any vendor's words (one file per vendor), tasks and
their states (`gateway.core`).

"No" is a value or a `VendorError` that proves a refusal; "don't know" is a `VendorError` whose outcome is
`unknown`:

    VendorError.outcome     what it proves                          what may follow
      not_sent              no byte of the request left us          the same request may be sent again
      rejected              a complete refusal by the vendor        fail, or another candidate
      unknown               nothing                                 never sent again by itself
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import msgspec

Mode: TypeAlias = Literal["text-to-video", "image-to-video"]
Resolution: TypeAlias = Literal["720p", "1080p", "4k"]
AspectRatio: TypeAlias = Literal["16:9", "9:16", "1:1"]
ImageForm: TypeAlias = Literal["url", "data_uri"]
Charged: TypeAlias = Literal["yes", "no", "unknown"]
Outcome: TypeAlias = Literal["not_sent", "rejected", "unknown"]

# Why a vendor call did not give an answer we can use. Closed: labels, tables and tests enumerate it.
ErrorKind: TypeAlias = Literal[
    "not_sent",  # name, connection or TLS handshake failed: no byte of the request left us
    "rate_limited",  # too many requests; later, or elsewhere
    "capacity",  # no free slot or channel at the vendor; later, or elsewhere
    "insufficient_credit",  # the account is empty; elsewhere
    "auth",  # the key is wrong, missing or revoked; elsewhere
    "permission",  # the account may not use this; elsewhere
    "unsupported",  # the vendor no longer knows this offering; elsewhere
    "invalid_request",  # the vendor finds the request wrong
    "content_policy",  # the vendor refuses the content
    "not_found",  # the task is not known there (yet)
    "unavailable",  # 5xx, or any answer that proves nothing
    "timeout",  # no whole answer in time
    "broken",  # the connection broke after the request began to leave
    "junk",  # an answer that cannot be read, or too large
]

# A vendor task id is opaque, but it goes into a path, a log line and an index: this is all we take.
_TASK_ID = re.compile(r"(?!\.+\Z)[A-Za-z0-9_.:=+@~-]{1,256}")


class Shot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One segment of a multi-shot video; `duration` in whole seconds."""

    prompt: str
    duration: int


class VideoRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One normalized request, defaults filled in. `duration` is in seconds.

    The rules that hold for every vendor (contract 2.1) were checked before one of these exists. `image` and
    `end_image` are URLs or data URIs. `aspect_ratio` is None exactly when there is an image, whose frame
    decides.
    """

    model: str
    prompt: str | None = None
    negative_prompt: str | None = None
    image: str | None = None
    end_image: str | None = None
    shots: tuple[Shot, ...] | None = None
    resolution: Resolution = "720p"
    aspect_ratio: AspectRatio | None = None
    duration: int = 5
    audio: bool = False
    voice_ids: tuple[str, ...] | None = None
    cfg_scale: float | None = None

    @property
    def mode(self) -> Mode:
        """Text-to-video, or image-to-video as soon as there is a first frame."""
        return "text-to-video" if self.image is None else "image-to-video"


class ShotLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What an offering takes as `shots`: how many, how long each prompt (code points) and time (seconds)."""

    max_items: int = 6
    prompt_max_chars: int = 512
    min_seconds: int = 1


class ImageLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What an offering takes as `image` and `end_image`: in which forms. All have one limit of bytes."""

    forms: tuple[ImageForm, ...] = ("url", "data_uri")


class Offering(msgspec.Struct, frozen=True, kw_only=True):
    """One thing a vendor sells, as data. The same row routes, validates (`providers.refusals`), is published.

    `slug` is the vendor's own name; `source` says where the row was read. `aspect_ratios` is empty where the
    frame decides. A feature that is None, False or 0 is not taken. `result_link_seconds` is how long a result
    link lives when the vendor does not say. `failed_is_charged` is what is known of a failed render's price.
    """

    slug: str
    model: str
    mode: Mode
    resolutions: tuple[Resolution, ...]
    durations: tuple[int, ...]
    aspect_ratios: tuple[AspectRatio, ...]
    source: str
    on_by_default: bool = False
    prompt_max_chars: int = 2500
    negative_prompt_max_chars: int | None = 2500
    image: ImageLimits | None = None
    end_image: bool = False
    shots: ShotLimits | None = None
    audio: bool = True
    voice_ids_max: int = 0
    cfg_scale: bool = False
    result_link_seconds: int = 3600
    failed_is_charged: Charged = "unknown"


Ref: TypeAlias = dict[str, str]  # an adapter's own reference to its task: stored, never read by the gateway


class VendorCall(msgspec.Struct, frozen=True):
    """The create call as it would leave us, without host, headers or key: `path` begins with a slash."""

    path: str
    body: dict[str, object]


class Submitted(msgspec.Struct, frozen=True, kw_only=True):
    """The vendor accepted, with an id. `estimate_seconds` is the vendor's own guess at the render time."""

    vendor_task_id: str
    ref: Ref
    raw_status: str | None = None
    estimate_seconds: float | None = None


class Pending(msgspec.Struct, frozen=True, kw_only=True, tag="pending"):
    """Not finished. `progress` 0..100 is a hint; `eta_seconds` the vendor's guess at what is left."""

    raw_status: str
    progress: int | None = None
    eta_seconds: float | None = None


class Succeeded(msgspec.Struct, frozen=True, kw_only=True, tag="succeeded"):
    """Done; `url` None: without a video, so asked again for a bounded time. `expires_in_seconds` from now."""

    raw_status: str
    url: str | None
    expires_in_seconds: float | None = None


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """The vendor says that the render failed. `message` is the vendor's, redacted and cut."""

    raw_status: str
    code: Literal["vendor_failed", "content_policy", "insufficient_credit"]
    message: str


class Unrecognised(msgspec.Struct, frozen=True, kw_only=True, tag="unrecognised"):
    """A status word that is in no table: counted, kept, followed to the deadline, never guessed."""

    raw_status: str
    progress: int | None = None


Progress: TypeAlias = Pending | Succeeded | Failed | Unrecognised


class VendorError(Exception):
    """A vendor call gave no usable answer. `outcome` says what is proven about a submit; see the module.

    `reason` is the vendor's own code, `retry_after_seconds` its hint (uncapped), None where it gave none.
    """

    def __init__(
        self,
        kind: ErrorKind,
        outcome: Outcome,
        message: str,
        *,
        status: int | None = None,
        reason: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.kind: ErrorKind = kind
        self.outcome: Outcome = outcome
        self.message = message
        self.status = status
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds


class Adapter(Protocol):
    """What every adapter does. Anything more is an optional protocol, and its presence is the capability."""

    def call(self, request: VideoRequest, offering: Offering) -> VendorCall:
        """The create call for `request`, pure. `submit` sends exactly this; the dry run shows it."""
        ...

    async def submit(self, request: VideoRequest, offering: Offering) -> Submitted:
        """Send one create call, once. Raises VendorError; anything but proof is `outcome="unknown"`."""
        ...

    async def poll(self, ref: Ref) -> Progress:
        """Ask for the task's state. Raises VendorError when that failed, which says nothing of the task."""
        ...


@runtime_checkable
class MakesRefs(Protocol):
    """Optional: of this adapter's tasks the vendor's id is all that a poll needs.

    So an operator can hand in the id of a job whose answer was lost, and an id that cannot exist can be asked
    for free to find out whether the vendor answers at all.
    """

    def ref_of(self, vendor_task_id: str) -> Ref:
        """The reference of the task with this id, which is a usable one."""
        ...


@runtime_checkable
class FindsSubmission(Protocol):
    """Optional: the vendor keeps a reference of ours with a job, and can be asked for the job by it."""

    async def submit_as(self, request: VideoRequest, offering: Offering, reference: str) -> Submitted:
        """As `Adapter.submit`, with `reference` (1..64 of a-z 0-9 _ -, never used twice) sent along."""
        ...

    async def find_submission(self, reference: str) -> Submitted | None:
        """The job sent with this reference. None: not known, or not yet; it proves nothing.

        Raises VendorError when that could not be asked.
        """
        ...


@runtime_checkable
class TakesCallbacks(Protocol):
    """Optional: the vendor calls back when something happened to a job: a reason to poll, and no more."""

    def call_back_at(self, url: str) -> None:
        """What to give the vendor with every job from now on. Said once; it is a secret, for no log."""
        ...

    def read_callback(self, headers: Mapping[str, str], body: bytes) -> str | None:
        """The job's id, None: none, or forged. Header names are in small letters. Raises nothing."""
        ...


class AdapterInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter as the register lists it. `base_url` None means that the configuration must name one.

    `auth_scheme` is the word before the key in the Authorization header.
    """

    name: str
    title: str
    docs: tuple[str, ...]
    base_url: str | None
    offerings: tuple[Offering, ...]
    build: Callable[[VendorDoor], Adapter]
    auth_scheme: str = "Bearer"


class Reply(msgspec.Struct, frozen=True):
    """A complete answer of a vendor, whatever its status.

    `retry_after_seconds` is the header, seconds or date, uncapped.
    """

    status: int
    body: bytes
    retry_after_seconds: float | None = None


class VendorDoor(Protocol):
    """The only way an adapter reaches its vendor: it names a path, never a host, header or key.

    `providers.http` has the one that is used.
    """

    async def submit(self, path: str, body: Mapping[str, object]) -> Reply:
        """POST `body` as JSON on a fresh connection, once. Raises VendorError when no whole answer came."""
        ...

    async def ask(self, path: str, query: Mapping[str, str] | None = None) -> Reply:
        """GET through the pool. Raises VendorError when no whole answer came."""
        ...

    def redact(self, text: str) -> str:
        """`text` fit for logs and callers: no key, signed query or control character, cut to 500."""
        ...


def usable_task_id(value: object) -> str | None:
    """`value` if it can be a vendor task id (1..256 of a safe alphabet), else None: the submit is unknown."""
    return value if isinstance(value, str) and _TASK_ID.fullmatch(value) else None
