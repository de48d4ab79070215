"""Calls to a running gateway, and what their outcomes mean to a script: one table of exit codes.

Not held here: options (`gateway.client.verbs`), how things look (`gateway.client.output`), and any rule about
a request: the service alone judges it.
"""

from __future__ import annotations

import base64
import enum
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from math import ceil, inf
from pathlib import Path
from typing import IO, Final, Self, TypeAlias
from urllib.parse import quote

import click
import httpx

from gateway.client.output import Json, printable

Query: TypeAlias = Mapping[str, str | int | None]

TERMINAL: Final = frozenset({"completed", "failed", "cancelled"})
_LOOK_SECONDS = 2  # of one long poll: the end is told at once, the bar moves this often
_GAP_SECONDS = 0.2  # between two looks, where the gateway answers without waiting; twice this, once it fails
_PAUSE_MAX_SECONDS = 5.0  # what that grows to, doubling, where nothing says when to come again
_LOST_SECONDS = 60  # that a watch outlives a gateway that does not answer, as while it restarts
_ANSWER_SECONDS = 60.0  # until an answer must begin, beside what it was asked to wait
_TEMPORARY = frozenset({429, 502, 503, 504})
_SIGNATURES: Final = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}


class Exit(enum.IntEnum):
    """The exit codes of contract section 4."""

    OK = 0
    ERROR = 1
    USAGE = 2
    STOPPED = 3  # cancelled or timed out
    AUTHENTICATION = 4
    FAILED = 5
    UNKNOWN = 6
    INTERRUPTED = 130


# What decided: a video's status, its error's code (which says more), or the HTTP status of a refused call.
EXITS: Final[Mapping[tuple[str, str | int], Exit]] = {
    ("status", "completed"): Exit.OK,
    ("status", "cancelled"): Exit.STOPPED,
    ("status", "failed"): Exit.FAILED,
    ("error", "deadline_exceeded"): Exit.STOPPED,
    ("error", "queue_timeout"): Exit.STOPPED,
    ("error", "submission_unknown"): Exit.UNKNOWN,
    ("http", 401): Exit.AUTHENTICATION,
    ("http", 403): Exit.AUTHENTICATION,
}


# What a refusal names as the service spells it, by its code, and as a terminal does.
SPELT: Final[Mapping[str, tuple[str, str]]] = {"not_cancellable": ("?detach=true", "--detach")}


class ClientError(click.ClickException):
    """A call did not do what was asked; the message is for the person, `exit_code` for their script."""

    def __init__(self, message: str, code: Exit = Exit.ERROR) -> None:
        super().__init__(message)
        self.exit_code = int(code)  # type: ignore[misc]  # click asks the instance


class Unavailable(ClientError):
    """No answer, or not now: says nothing about any video. `sent`: what was asked for may have been done.

    `retry_after_seconds`: when to come again, where the answer says so.
    """

    def __init__(self, message: str, *, sent: bool, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.sent, self.retry_after_seconds = sent, retry_after_seconds


class Client:
    """A caller of the gateway at `url`, as a context. `key` None sends none, for a gateway without keys."""

    def __init__(
        self, url: str, key: str | None, *, now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        try:
            parts = httpx.URL(url)
        except httpx.InvalidURL:
            parts = httpx.URL()
        has_more = parts.userinfo or parts.query or parts.fragment  # a user would take the place of the key
        if parts.scheme not in {"http", "https"} or not parts.host or has_more:
            raise click.UsageError("--url or REELGATE_URL is http://HOST or https://HOST, or a path there.")
        if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
            raise ClientError("REELGATE_KEY or --key holds what no key has.", Exit.AUTHENTICATION)
        self._url, self._now, self._sleep = url.rstrip("/"), now, sleep
        loopback = parts.host in {"127.0.0.1", "::1", "localhost"}
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=_ANSWER_SECONDS,
            trust_env=not loopback,  # a proxy of the environment cannot reach this machine's own loopback
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def call(
        self, method: str, path: str, *, query: Query | None = None, body: Json | None = None,
        headers: Mapping[str, str] | None = None, wait_seconds: int = 0,
    ) -> Json:  # fmt: skip
        """The object that answers; `wait_seconds` is how long it may be held. Raises ClientError."""
        timeout = httpx.Timeout(_ANSWER_SECONDS + wait_seconds, connect=5)
        request = self._http.build_request(
            method, self._url + path, params=_given(query), json=body, headers=headers, timeout=timeout,
        )
        found = _object(self._answer(request))
        if found is None:
            raise ClientError(f"{self._url} does not answer as Reelgate does. Is REELGATE_URL right?")
        return found

    def text(self, path: str, query: Query) -> str:
        """What answers a GET, as it is. Raises ClientError."""
        return self._answer(self._http.build_request("GET", self._url + path, params=_given(query))).text

    def _answer(self, request: httpx.Request) -> httpx.Response:
        with self._reaching():
            answer = self._http.send(request)
        if not answer.is_success:
            raise _refused(answer)
        return answer

    def create(self, body: Json, idempotency_key: str) -> Json:
        """Order the video of `body`, as `order` does."""
        return self.order("/v1/videos", body, idempotency_key)

    def order(self, path: str, body: Json | None, idempotency_key: str) -> Json:
        """POST what orders a video. A broken connection is tried again once, which the key makes safe.

        Raises ClientError; with `Exit.UNKNOWN` where the order may have arrived all the same.
        """
        headers = {"Idempotency-Key": idempotency_key}
        send = partial(self.call, "POST", path, body=body, headers=headers)
        try:
            return send()
        except Unavailable as error:
            if not error.sent:
                raise
        try:
            return send()
        except Unavailable as error:
            hint = f"the same command with --idempotency-key {idempotency_key} tells, and never buys twice"
            message = f"{error.message}\nThe order may have arrived: {hint}."
            raise ClientError(message, Exit.UNKNOWN) from error

    def video(self, video_id: str, wait_seconds: int = 0) -> Json:
        """The video, at its end or after `wait_seconds` (0..60). Raises ClientError."""
        query = {"wait": wait_seconds or None}
        return self.call("GET", path_of(video_id), query=query, wait_seconds=wait_seconds)

    def follow(self, video_id: str, timeout_seconds: float | None = None) -> Iterator[Json]:
        """The video again and again, last in its terminal status, across restarts of the gateway.

        Raises ClientError, with `Exit.STOPPED` once `timeout_seconds` are over.
        """
        answered = self._now()
        end = inf if timeout_seconds is None else answered + timeout_seconds
        seen: Json | None = None
        refused = 0  # times in a row
        while True:
            asked = self._now()
            left = ceil(min(_LOOK_SECONDS, max(0, end - asked)))
            try:
                seen = self.video(video_id, left if seen else 0)
            except Unavailable as error:
                if seen is None or asked - answered > _LOST_SECONDS:
                    raise
                if not refused:
                    click.echo(f"{error.message} Trying again.", err=True)
                refused += 1
                next_at = self._now() + _pause(refused, error.retry_after_seconds)
            else:
                answered, refused, next_at = self._now(), 0, asked + _GAP_SECONDS
                yield seen
                if seen["status"] in TERMINAL:
                    return
            if self._now() >= end:
                again = f"It goes on; to look again: reelgate videos watch {video_id}"
                raise ClientError(f"Not finished after {timeout_seconds:g} s. {again}", Exit.STOPPED)
            self._sleep(max(0.0, min(next_at, end) - self._now()))

    def download(self, video_id: str, target: Path, told: Callable[[int, int | None], None]) -> int:
        """Write the video to `target`, whole or not at all, and say its size in bytes. Raises ClientError.

        `told` hears the bytes so far and those in all, where known.
        """
        part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
        try:
            if target.exists() and not target.is_file():
                raise ClientError(f"{target} is no file, and would be replaced by one.")
            with self._opened(path_of(video_id, "/content")) as answer, part.open("xb") as file:
                size = _copy(answer, file, told)
                file.flush()
                os.fsync(file.fileno())
            part.replace(target)
        except OSError as error:
            raise ClientError(f"Cannot write {target}: {error.strerror}") from error
        finally:
            with suppress(OSError):  # it is in place, or could not even be made
                part.unlink()
        return size

    def download_into(self, file: IO[bytes], video_id: str, told: Callable[[int, int | None], None]) -> int:
        """Write the video to `file` as it comes, and say its size in bytes; `told` as with `download`.

        Raises ClientError, also after a part, and BrokenPipeError where nobody reads any more.
        """
        try:
            with self._opened(path_of(video_id, "/content")) as answer:
                size = _copy(answer, file, told)
                file.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise ClientError(f"Cannot write: {error.strerror}") from error
        return size

    @contextmanager
    def _opened(self, path: str) -> Iterator[httpx.Response]:
        headers = {"Accept-Encoding": "identity"}
        with self._reaching(), self._http.stream("GET", self._url + path, headers=headers) as answer:
            if not answer.is_success:
                answer.read()
                raise _refused(answer)
            yield answer

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            where = f"the gateway at {self._url} (--url, REELGATE_URL)"
            raise Unavailable(f"Cannot reach {where}: {error}. Does it run?", sent=False) from error
        except httpx.TransportError as error:
            where = f"The connection to the gateway at {self._url} (--url, REELGATE_URL)"
            raise Unavailable(f"{where} broke: {error!r}.", sent=True) from error


def _pause(refused: int, retry_after_seconds: float | None) -> float:
    """How long to wait, in seconds, after that many refusals in a row."""
    if retry_after_seconds is not None:
        return min(max(retry_after_seconds, _GAP_SECONDS), _LOST_SECONDS)
    return min(_GAP_SECONDS * 2.0**min(refused, 10), _PAUSE_MAX_SECONDS)


def _given(query: Query | None) -> dict[str, str | int]:
    return {name: value for name, value in (query or {}).items() if value is not None}


def outcome(video: Json) -> Exit:
    """The exit code of a video in a terminal status."""
    code = str((video.get("error") or {}).get("code"))
    by_status = EXITS.get(("status", video["status"]), Exit.ERROR)
    return EXITS.get(("error", code), by_status) if by_status is Exit.FAILED else by_status


def request_body(options: Mapping[str, object]) -> Json:
    """The body of a create: what was given, by the API's names, files as data URIs. Raises ClientError."""
    body: Json = {name: value for name, value in options.items() if value not in (None, (), {})}
    return body | {name: _image(body[name]) for name in ("image", "end_image") if name in body}


def _image(given: str) -> str:
    if given.startswith(("http://", "https://", "data:")):
        return given
    try:
        content = Path(given).read_bytes()
    except OSError as error:
        raise ClientError(f"Cannot read the image {given}: {error.strerror}") from error
    kind = next((kind for start, kind in _SIGNATURES.items() if content.startswith(start)), None)
    if kind is None:
        raise ClientError(f"{given} is neither PNG nor JPEG.")
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def path_of(video_id: str, rest: str = "") -> str:
    """The path of a video, or of something under it. Raises UsageError where no video can be meant.

    An escaped slash would name something else all the same: the gateway sees paths decoded.
    """
    if not video_id or "/" in video_id:
        raise click.UsageError(f"{video_id!r} is no id of a video.")
    return f"/v1/videos/{quote(video_id, safe='')}{rest}"


def _copy(answer: httpx.Response, file: IO[bytes], told: Callable[[int, int | None], None]) -> int:
    size, total = 0, int(answer.headers.get("content-length", 0)) or None
    for chunk in answer.iter_bytes():
        file.write(chunk)
        size += len(chunk)
        told(size, total)
    return size


def _object(answer: httpx.Response) -> Json | None:
    try:
        found = answer.json()
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _refused(answer: httpx.Response) -> ClientError:
    """The problem document as lines: what is wrong, each field, each candidate, and the id to ask about."""
    ours = answer.headers.get("content-type", "").startswith("application/problem+json")
    problem = (_object(answer) if ours else None) or {}
    said = str(problem.get("detail") or f"{answer.request.url} answered with status {answer.status_code}")
    lines = [said.replace(*SPELT.get(str(problem.get("code")), ("", "")))]
    lines += [f"  {error['pointer']}: {error['detail']}" for error in problem.get("errors") or ()]
    for candidate in problem.get("candidates") or ():
        lines.append(f"  {candidate['provider']} {candidate['offering']}: {'; '.join(candidate['reasons'])}")
    if answer.status_code == 401:
        lines.append("  REELGATE_KEY or --key gives it from here")
    request_id = problem.get("request_id") or answer.headers.get("x-request-id")
    message = "\n".join(map(printable, [*lines, f"  request id: {request_id or 'none given'}"]))
    # Who stands in between, and answers with an error of its own, knows nothing of what it passed on.
    may_be_done = answer.status_code >= 500 and (not ours or problem.get("charged") == "unknown")
    if answer.status_code in _TEMPORARY or may_be_done:
        said = answer.headers.get("retry-after", "")
        retry_after_seconds = float(said) if said.isascii() and said.isdecimal() else None  # else a date
        return Unavailable(message, sent=may_be_done, retry_after_seconds=retry_after_seconds)
    return ClientError(message, EXITS.get(("http", answer.status_code), Exit.ERROR))
