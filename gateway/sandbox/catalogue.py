"""The table of all faults that the simulators can play, each with its rows of the vendor fault matrix.

`reelgate sandbox --faults` prints it. Held here: data, and what it says of rows that no simulator can play.
Not held here: how one is chosen (`faults`), what it does to an answer (`distortions`), to the socket (`wire`)
or to a port (`ports`), and the vendors' own words for an error (`protocols`).
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias, get_args

import msgspec

from gateway.sandbox import distortions as bent
from gateway.sandbox import wire
from gateway.sandbox.ports import PortState

Phase: TypeAlias = Literal["submit", "poll", "download"]
Args: TypeAlias = Mapping[str, str | int | float]
PHASES: Final[tuple[Phase, ...]] = get_args(Phase)
_SPD, _SP, _S, _P, _D = PHASES, PHASES[:2], PHASES[:1], PHASES[1:2], PHASES[2:]
_WINDOW_SECONDS: Final = 6 * 3600.0

# Each overrides what the vendor's table has; `retry_after` is sent as it is given, however odd.
_ERROR_ARGS: Final[Args] = {"status": 0, "reason": "", "message": "", "retry_after": ""}


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One fault. Exactly one of `error`, `bend`, `retell`, `send` and `port` says what it does.

    `rows` are those of the matrix that it plays; none: the matrix does not name it. `works` False: on a
    submit the vendor does not do the work, so nothing is charged. `times` None: every time. `lasts`: for that
    many seconds after it first struck, in all its phases. `args` are the arguments with their defaults, whose
    types bind. `error` names a row of the vendors' error tables, `port` what becomes of a port.
    """

    rows: tuple[int, ...]
    phases: tuple[Phase, ...]
    text: str
    works: bool = True
    times: int | None = 1
    lasts: float | None = None
    args: Args = {}
    error: str | None = None
    bend: bent.Bend | None = None
    retell: bent.Retell | None = None
    send: wire.Send | None = None
    port: PortState | None = None


def _port(row: int, text: str, port: PortState) -> Fault:
    return Fault(rows=(row,), phases=_SPD, text=text, works=False, port=port)


def _sent(row: int, text: str, send: wire.Send, **args: float) -> Fault:
    return Fault(rows=(row,), phases=_SPD, text=text, send=send, args=dict(args))


def _error(kind: str, text: str, phases: tuple[Phase, ...] = _SP, *rows: int, works: bool = False) -> Fault:
    return Fault(rows=rows, phases=phases, text=text, works=works, error=kind, args=_ERROR_ARGS)


def _hint(row: int, text: str, **args: str | float) -> Fault:
    args_of_row = {**_ERROR_ARGS, **args}
    return Fault(rows=(row,), phases=_SPD, text=text, works=False, error="rate_limited", args=args_of_row)


def _junk(row: int, text: str, bend: bent.Bend, **args: int) -> Fault:
    return Fault(rows=(row,), phases=_SP, text=text, bend=bend, args=dict(args))


def _id(text: str, change: object) -> Fault:
    return Fault(rows=(41,), phases=_S, text=text, bend=bent.task_id(lambda _own, _call: change))


def _told(row: int, text: str, retell: bent.Retell, times: int | None = None) -> Fault:
    return Fault(rows=(row,), phases=_P, text=text, times=times, retell=retell)


FAULTS: Final[Mapping[str, Fault]] = {
    # Below HTTP: what becomes of a port of its own, which POST /admin/ports opens.
    "connect_refused": _port(2, "nobody listens", "refused"),
    "connect_blackhole": _port(3, "a connect neither succeeds nor fails", "blackhole"),
    "handshake_reset": _port(4, "RST in place of a TLS handshake", "handshake_reset"),
    "handshake_silence": _port(4, "a TLS handshake that is never answered", "handshake_silence"),
    # The socket, before any work was done and after it: from outside the two look alike.
    "hang_before_work": Fault(rows=(6,), phases=_S, text="no answer, no work", works=False, send=wire.hang),
    "reset_before_work": Fault(rows=(8,), phases=_S, text="RST before an answer, no work", works=False,
                               send=wire.reset),
    "hang": _sent(7, "does the work, then never answers", wire.hang),
    "reset_after_accept": _sent(8, "works, then RST before an answer", wire.reset),
    "close_after_accept": _sent(8, "works, then FIN before an answer", wire.close),
    "reset_mid_headers": _sent(9, "RST amid the headers", wire.reset_mid_headers),
    "reset_mid_body": _sent(10, "RST amid the body", wire.reset_mid_body),
    "truncated_body": _sent(11, "FIN amid the body", wire.truncated_body),
    "length_too_high": _sent(12, "Content-Length promises more", wire.length_too_high),
    "length_too_low": _sent(13, "Content-Length cuts the body", wire.length_too_low),
    "late": _sent(14, "the right answer after a pause", wire.late, seconds=5.0),
    "drip": _sent(14, "one byte at a time", wire.drip, seconds=1.0),
    "endless_headers": _sent(15, "headers never end", wire.endless_headers, seconds=0.1),
    "many_headers": _sent(16, "very many headers", wire.many_headers, count=100_000),
    "huge_header": _sent(16, "one very long header", wire.huge_header, bytes=1_000_000),
    "huge_body": _sent(17, "a very long string", wire.huge_body, bytes=1_000_000_000),
    "endless_body": _sent(18, "chunks without end", wire.endless_body, bytes=10**12),
    "broken_chunk": Fault(rows=(), phases=_SPD, text="a chunk size that is no number",
                          send=wire.broken_chunk),
    "not_http": Fault(rows=(), phases=_SPD, text="bytes that are not HTTP", send=wire.not_http),
    # The content: whole answers that cannot be used. The work was done.
    "gzip_bomb": Fault(rows=(19,), phases=_SPD, text="a small body that unpacks large", bend=bent.gzip_bomb,
                       args={"bytes": 50_000_000}),
    "stacked_encodings": Fault(rows=(20,), phases=_SPD, text="packed many times over",
                               bend=bent.stacked_encodings, args={"count": 50}),
    "invalid_json": _junk(21, "JSON cut short", bent.body(lambda body, _: body[:-1])),
    "html": _junk(22, "a page for people with status 200", bent.body(bent.html, "text/html")),
    "html_file": Fault(rows=(22,), phases=_D, text="a page instead of the file",
                       bend=bent.body(bent.html, "text/html")),
    "empty": _junk(23, "status 200 and no body", bent.body(lambda _body, _call: b"")),
    "bom": _junk(24, "a byte order mark before the JSON", bent.body(lambda body, _: b"\xef\xbb\xbf" + body)),
    "wrong_charset": _junk(25, "the JSON in UTF-16", bent.body(lambda body, _: body.decode().encode(
        "utf-16"))),
    "nan": _junk(26, "NaN where an object should be", bent.body(
        lambda _body, _call: b'{"id": NaN, "task_id": NaN}')),
    "huge_exponent": _junk(26, "1e400 where an id should be", bent.body(
        lambda _body, _call: b'{"id": 1e400, "task_id": 1e400}')),
    "huge_number": _junk(26, "a number of very many digits", bent.body(bent.huge_number), digits=10_000),
    "nested": _junk(27, "arrays in arrays", bent.body(bent.nested), depth=100_000),
    "duplicate_keys": _junk(28, "the first member twice", bent.body(bent.duplicate_keys)),
    "error_in_200": _junk(38, "an error object with status 200", bent.body(
        lambda _body, _call: b'{"code": 500, "reason": "CREATE_TASK_FAILED", "message": "try later"}')),
    "status": Fault(rows=(37, 39), phases=_SP, text="the right body under another status", bend=bent.status,
                    args={"code": 500}),
    "redirect": Fault(rows=(40,), phases=_SPD, text="somebody else's address", bend=bent.redirect,
                      args={"code": 307, "to": "http://127.0.0.1:9/elsewhere"}),
    # Refusals, in the vendor's own words. Nothing was accepted, except where the name says so.
    "rate_limited": _error("rate_limited", "too many requests; retry_after is sent as given", _SPD, 29),
    "retry_after_seconds": _hint(30, "too many requests, and a number of seconds", retry_after="3"),
    "retry_after_date": _hint(31, "too many requests, and an HTTP date so many seconds ahead", ahead=3.0),
    "retry_after_negative": _hint(32, "too many requests, and seconds below zero", retry_after="-5"),
    "retry_after_years": _hint(33, "too many requests, and ten years", retry_after="315360000"),
    "retry_after_garbage": _hint(34, "too many requests, and no time at all", retry_after="soon, maybe"),
    "key_revoked": _error("bad_key", "the key is not accepted any more", _SP, 35),
    "forbidden": _error("permission", "the account may not use this", _SP, 35),
    "no_credit": _error("no_credit", "the account is empty", _SP, 36),
    "server_error": _error("server_error", "fails without doing the work", _SPD, 37),
    "server_error_after_accept": _error("server_error", "does the work, then says it failed", _SP, 37,
                                        works=True),
    "unavailable": _error("unavailable", "out of service", _SPD, 37),
    "model_removed": _error("unknown_slug", "the model is gone", _SP, 69),
    "invalid": _error("invalid", "the request is found wrong"),
    "policy": _error("policy", "the content is refused", _S),
    "capacity": _error("capacity", "no free channel"),
    "maintenance": Fault(rows=(68,), phases=_SPD, text="a proxy's HTML page with 503", works=False,
                         bend=bent.maintenance),
    "maintenance_window": Fault(rows=(68,), phases=_SPD, text="that page to every call, for hours",
                                works=False, times=None, lasts=_WINDOW_SECONDS, bend=bent.maintenance),
    # Ids.
    "id_missing": _id("accepted without an id", None),
    "id_empty": _id("an empty id", ""),
    "id_number": _id("a number as id", 12345),
    "id_long": _id("an id of 10 kB", "x" * 10_000),
    "id_path": _id("an id that climbs a path", "a/../../admin/ledger"),
    "id_newline": _id("an id with a line break", "a\r\nx-injected: 1"),
    "id_duplicate": Fault(rows=(42,), phases=_S, text="the id of this vendor's previous task",
                          bend=bent.task_id(lambda own, call: call.previous_id or own)),
    # What a poll says.
    "unknown_status": Fault(rows=(43,), phases=_P, text="a status nobody knows", times=3,
                            args={"word": "TASK_STATUS_BAKING"},
                            bend=bent.status_word(lambda _word, call: str(call.args["word"]))),
    "status_case": Fault(rows=(44,), phases=_P, text="the status in other letter case", times=None,
                         bend=bent.status_word(lambda word, _call: word.swapcase())),
    "status_localized": Fault(rows=(45,), phases=_P, text="the status in another language", times=None,
                              bend=bent.status_word(bent.localized)),
    "backwards": _told(46, "done without a video, then queued", bent.backwards, 2),
    "flapping": _told(47, "queued and processing in turn", bent.flapping),
    "jumping_progress": _told(48, "80, 20, 150, -5", bent.jumping_progress),
    "no_output": _told(49, "done, and no list of videos", bent.videos(None)),
    "empty_output": _told(50, "done, and an empty list", bent.videos(0)),
    "dead_link": _told(51, "a link that leads nowhere (404)", bent.dead_link),
    "several_outputs": _told(52, "done, and three videos", bent.videos(3)),
    "not_found": Fault(rows=(53, 54), phases=_P, text="the task is not known, for a while", times=2,
                       error="not_found", args=_ERROR_ARGS),
    "failed": Fault(rows=(55,), phases=_P, text="the render fails, charged", times=None, retell=bent.failed,
                    args={"reason": "generation failed", "code": "service_error"}),
    "stuck": _told(56, "queued for ever", bent.stuck),
    "short_link": Fault(rows=(51, 57), phases=_P, text="links that die sooner than said (403)", times=None,
                        retell=bent.short_link, args={"seconds": 0.0}),
    # Files.
    "no_ranges": Fault(rows=(58,), phases=_D, text="ranges are not known", times=None,
                       bend=bent.without_ranges),
    "other_bytes": Fault(rows=(59,), phases=_D, text="other bytes on every try", times=None,
                         bend=bent.other_bytes),
}

# Rows, or parts of one, that this process does not play, and what to do instead.
NOT_PLAYED: Final[Mapping[tuple[int, ...], str]] = {
    (1,): "names are not ours to resolve: point base_url at http://vendor.invalid",
    (4,): "wrong certificates need an authority and a key: tests/faults serves this sandbox behind them",
    (5,): "likewise an old version of TLS",
    (60, 61, 62, 63, 64, 65, 66, 67): "no vendor here documents callbacks: tests/engine/test_callbacks.py",
}


_HOW: Final = """\
In a prompt:       [[fault:rate_limited times=2]]  [[fault:failed reason="no gpu"]]  [[fault:hang phase=poll]]
For the next call: curl 127.0.0.1:8090/admin/faults -d '{"fault": "hang", "vendor": "unified"}'
Below HTTP:        curl 127.0.0.1:8090/admin/ports -d '{"fault": "connect_refused"}'   # answers with a URL
Beside a fault's own arguments: phase=submit|poll|download|all  vendor=NAME  times=N|always  lasts=SECONDS"""


def described() -> dict[str, object]:
    """All of it for programs: the faults, and the rows that are not played, with why not."""
    return {
        "faults": listed(),
        "not_played": [{"rows": rows, "text": why} for rows, why in NOT_PLAYED.items()],
    }


def listed() -> list[dict[str, object]]:
    """Every fault, as `GET /admin/faults` tells it."""
    return [
        {
            "name": name, "rows": fault.rows, "phases": fault.phases, "text": fault.text,
            "works": fault.works, "times": fault.times, "lasts": fault.lasts, "args": fault.args,
            "armed_by": "port" if fault.port else "call",
        }
        for name, fault in FAULTS.items()
    ]


def table() -> str:
    """All of it for people, and how to choose one. Rows are those of the vendor fault matrix."""
    told = [
        (
            fault.rows, name, " ".join(fault.phases),
            " ".join(_argument(*item) for item in fault.args.items()),
            fault.text + (f" ({fault.lasts:g} s)" if fault.lasts else ""),
        )
        for name, fault in FAULTS.items()
    ]
    told += [(rows, "(not played)", "", "", why) for rows, why in NOT_PLAYED.items()]
    told.sort(key=lambda row: row[0] or (1_000,))
    cells = [("ROW", "FAULT", "STRIKES AT", "ARGUMENTS", "WHAT IT DOES")]
    cells += [(_rows(row[0]), *row[1:]) for row in told]
    widths = [max(len(row[column]) for row in cells) for column in range(4)]
    lines = ("  ".join([*map(str.ljust, row[:4], widths), row[4]]).rstrip() for row in cells)
    return "\n".join([*lines, "", _HOW])


def _argument(name: str, default: str | float) -> str:
    """An argument with its default as a directive would have it, alone where that says nothing."""
    return f"{name}={shlex.quote(str(default))}" if default else name


def _rows(rows: tuple[int, ...]) -> str:
    """`37, 39`, or `60-67` for a run of more than two."""
    if len(rows) > 2 and rows == tuple(range(rows[0], rows[-1] + 1)):
        return f"{rows[0]}-{rows[-1]}"
    return ", ".join(map(str, rows)) or "-"
