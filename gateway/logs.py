"""How a line of the log is written: its form, its level, its time, and when it leaves the process.

Lines of one turn of the event loop leave together, at its end; outside a loop each at once. What is grave
leaves at once always, with all that came before it. Of an error its class and its places in the code are
written, and its words only where they are ours or cannot quote what a caller sent. Not held here: what is
logged (`gateway.telemetry`).
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, Literal, TextIO, TypeAlias

import msgspec
import structlog
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

LogFormat: TypeAlias = Literal["auto", "json", "text"]
LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]

_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}

request_id: Final[ContextVar[str | None]] = ContextVar("request_id", default=None)
_encode: Final = msgspec.json.Encoder(enc_hook=repr).encode
# Whose words are written: those of packages that quote no values, and classes that name code or files. Any
# other error may quote what it met: a database its rows, a conversion its text, a look-up its key.
_QUOTING_NOTHING: Final = frozenset({"gateway", "providers", "sqlite3"})
_NAMING_CODE: Final = (
    TypeError, AttributeError, NameError, RuntimeError, AssertionError, OSError, MemoryError,
)


class _Lines:
    """The loggers' end: it gathers lines and writes them to `stream`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._gathered: list[str] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def to(self, stream: TextIO) -> None:
        """Write to `stream` from now on."""
        self.write()
        self._stream = stream

    def gather(self, line: str) -> None:
        """Write `line` with the others of this turn of the loop."""
        self._gathered.append(line)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # nothing comes after
            self.write()
            return
        if len(self._gathered) == 1 or loop is not self._loop:  # another one may have ended before its turn
            self._loop = loop
            loop.call_soon(self.write)

    def at_once(self, line: str) -> None:
        """Write `line`, after those that wait."""
        self._gathered.append(line)
        self.write()

    def write(self) -> None:
        """Write all that waits, in one go; what the stream does not take is lost."""
        lines, self._gathered = self._gathered, []
        if lines:
            # A full disk or a closed pipe takes the lines, and must not end whoever logged them.
            with suppress(OSError, ValueError):
                self._stream.write("\n".join(lines) + "\n")
                self._stream.flush()

    debug = info = gather
    warning = error = critical = exception = at_once


_lines: Final = _Lines(sys.stdout)


def configure_logging(level: LogLevel, style: LogFormat) -> None:
    """One line an event on stdout: JSON, or text for people (`auto`: text on a terminal)."""
    _lines.to(sys.stdout)
    is_terminal = sys.stdout.isatty()
    text = style == "text" or (style == "auto" and is_terminal)
    renderer: Processor = structlog.dev.ConsoleRenderer(colors=is_terminal) if text else _as_json
    structlog.configure(
        processors=[_placed, _explained, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=lambda *_: _lines,
        cache_logger_on_first_use=False,
    )
    # Libraries that print each URL they fetch would print signed links.
    for name in ("httpx", "httpcore", "aiohttp", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)


def logger(*first: Processor) -> structlog.typing.FilteringBoundLogger:
    """A logger as configured by now, whose lines `first` sees before all else.

    Made once: for each line it would cost as much as the line.
    """
    bound: structlog.typing.FilteringBoundLogger = structlog.get_logger().bind()
    if first:
        known = structlog.get_config()
        bound = structlog.wrap_logger(
            _lines, processors=[*first, *known["processors"]], wrapper_class=known["wrapper_class"]
        ).bind()
    return bound


def write_lines() -> None:
    """Let all lines leave now: the process is about to end without another turn of its loop."""
    _lines.write()


def _placed(_: WrappedLogger, level: str, line: EventDict) -> EventDict:
    """When, how grave, and for which request."""
    request = request_id.get()
    if request is not None:
        line.setdefault("request_id", request)
    line["level"] = level
    second, micros = divmod(time.time_ns() // 1_000, 1_000_000)
    line["timestamp"] = f"{_second(second)}.{micros:06}Z"
    return line


@lru_cache(1)
def _second(number: int) -> str:
    return datetime.fromtimestamp(number, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _explained(logger: WrappedLogger, level: str, line: EventDict) -> EventDict:
    """Why, of a line that has an error."""
    return _with_error(logger, level, line) if "exc_info" in line else line


def _told(exc_info: ExcInfo) -> str:
    """A traceback, that of what led to it first; no values of variables, and words as said above."""
    return "\n".join(_told_of(exc_info[1], set()))


def _told_of(error: BaseException, known: set[int]) -> Iterator[str]:
    known.add(id(error))
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None and id(before) not in known:
        yield from _told_of(before, known)
        yield "\nwhich led to:\n"
    yield "Traceback (most recent call last):"
    yield "".join(traceback.format_tb(error.__traceback__)).rstrip("\n")
    kind = type(error)
    is_ours = kind.__module__.partition(".")[0] in _QUOTING_NOTHING
    has_words = is_ours or (kind.__module__ == "builtins" and isinstance(error, _NAMING_CODE))
    name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    yield f"{name}: {error}" if has_words else name
    for inner in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
        yield from _told_of(inner, known)


_with_error: Final = structlog.processors.ExceptionRenderer(_told)


def _as_json(_: WrappedLogger, __: str, line: EventDict) -> str:
    """ASCII whatever is in it: what controls a terminal is escaped, and every stream takes it.

    The standard library's encoder does that by itself, at several times the price.
    """
    try:
        content = _encode(line)
    except (UnicodeEncodeError, OverflowError):  # half of a surrogate pair, a number of more than 64 bits
        return json.dumps(line, default=repr)
    return content.decode("ascii") if content.isascii() else json.dumps(line, default=repr)
