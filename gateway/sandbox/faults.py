"""The simulators' faults: the table of all there are, and how a prompt or the admin route chooses one.

A prompt chooses with `[[fault:NAME]]` or `[[fault:NAME key=value phase=poll]]`, as often as it likes. Beside
a row's own arguments there are three:

    phase    `submit`, `poll` or `download`; without it the first phase that the row names
    vendor   strikes at that vendor only
    times    a number or `always`; without it every submit, else the row's own. On a submit a number counts
             submits of the same prompt: `[[fault:rate_limited times=2]]` is accepted at the third try

`[[ref:WORD]]` puts a reference of the caller's into the ledger. Neither is drawn on the test card. The admin
route arms the same rows for the next calls of a vendor.

Not held here: what a fault does to an answer (`distortions`) or to the socket (`wire`), and the vendors' own
words for an error (`protocols`). Faults below HTTP that no answer can show (DNS, refused connections, TLS)
need no simulator.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias, get_args

import msgspec

from gateway.sandbox import distortions as bent
from gateway.sandbox import wire
from gateway.sandbox.wire import Call

Phase: TypeAlias = Literal["submit", "poll", "download"]
PHASES: tuple[Phase, ...] = get_args(Phase)
VENDOR_NAMES = ("highwayapi", "myrouter", "unified")
_SPD, _SP, _S, _P, _D = PHASES, PHASES[:2], PHASES[:1], PHASES[1:2], PHASES[2:]
_DIRECTIVE = re.compile(r"\[\[(fault|ref):([^\]]*)\]\]")


# Each overrides what the vendor's table has; `retry_after` is sent as it is given, however odd.
_ERROR_ARGS: dict[str, str | int | float] = {"status": 0, "reason": "", "message": "", "retry_after": ""}


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One row. Exactly one of `error`, `bend`, `retell` and `send` says what it does.

    `works` False: on a submit the vendor does not do the work, so nothing is charged. `times` None: every
    time. `args` are the arguments with their defaults, whose types bind. `error` names a row of the vendors'
    error tables.
    """

    phases: tuple[Phase, ...]
    text: str
    works: bool = True
    times: int | None = 1
    args: Mapping[str, str | int | float] = {}
    error: str | None = None
    bend: bent.Bend | None = None
    retell: bent.Retell | None = None
    send: wire.Send | None = None


def _error(kind: str, text: str, *phases: Phase, works: bool = False) -> Fault:
    return Fault(phases=phases or _SP, text=text, works=works, error=kind, args=_ERROR_ARGS)


def _junk(text: str, bend: bent.Bend, **args: int) -> Fault:
    return Fault(phases=_SP, text=text, bend=bend, args=dict(args))


def _id(text: str, change: object) -> Fault:
    return Fault(phases=_S, text=text, bend=bent.task_id(lambda _own, _call: change))


FAULTS: dict[str, Fault] = {
    # The socket, before any work was done and after it: from outside the two look alike.
    "hang_before_work": Fault(phases=_S, text="no answer, no work", works=False, send=wire.hang),
    "reset_before_work": Fault(phases=_S, text="RST before an answer, no work", works=False, send=wire.reset),
    "hang": Fault(phases=_SPD, text="does the work, then never answers", send=wire.hang),
    "reset_after_accept": Fault(phases=_SPD, text="works, then RST before an answer", send=wire.reset),
    "close_after_accept": Fault(phases=_SPD, text="works, then FIN before an answer", send=wire.close),
    "reset_mid_headers": Fault(phases=_SPD, text="RST amid the headers", send=wire.reset_mid_headers),
    "reset_mid_body": Fault(phases=_SPD, text="RST amid the body", send=wire.reset_mid_body),
    "truncated_body": Fault(phases=_SPD, text="FIN amid the body", send=wire.truncated_body),
    "length_too_high": Fault(phases=_SPD, text="Content-Length promises more", send=wire.length_too_high),
    "length_too_low": Fault(phases=_SPD, text="Content-Length cuts the body", send=wire.length_too_low),
    "late": Fault(phases=_SPD, text="the right answer after a pause", send=wire.late, args={"seconds": 5.0}),
    "drip": Fault(phases=_SPD, text="one byte at a time", send=wire.drip, args={"seconds": 1.0}),
    "endless_headers": Fault(phases=_SPD, text="headers never end", send=wire.endless_headers,
                             args={"seconds": 0.1}),
    "many_headers": Fault(phases=_SPD, text="very many headers", send=wire.many_headers,
                          args={"count": 100_000}),
    "huge_header": Fault(phases=_SPD, text="one very long header", send=wire.huge_header,
                         args={"bytes": 1_000_000}),
    "endless_body": Fault(phases=_SPD, text="chunks without end", send=wire.endless_body),
    "huge_body": Fault(phases=_SPD, text="a very long string", send=wire.huge_body,
                       args={"bytes": 1_000_000_000}),
    "broken_chunk": Fault(phases=_SPD, text="a chunk size that is no number", send=wire.broken_chunk),
    "not_http": Fault(phases=_SPD, text="bytes that are not HTTP", send=wire.not_http),
    # The content: whole answers that cannot be used. The work was done.
    "gzip_bomb": _junk("a small body that unpacks large", bent.gzip_bomb, bytes=50_000_000),
    "stacked_encodings": _junk("packed many times over", bent.stacked_encodings, count=50),
    "invalid_json": _junk("JSON cut short", bent.body(lambda body, _: body[:-1])),
    "html": _junk("a page for people with status 200", bent.body(bent.html, "text/html")),
    "empty": _junk("status 200 and no body", bent.body(lambda _body, _call: b"")),
    "bom": _junk("a byte order mark before the JSON", bent.body(lambda body, _: b"\xef\xbb\xbf" + body)),
    "wrong_charset": _junk("the JSON in UTF-16", bent.body(lambda body, _: body.decode().encode("utf-16"))),
    "nan": _junk("NaN where an object should be", bent.body(
        lambda _body, _call: b'{"id": NaN, "task_id": NaN}')),
    "huge_number": _junk("a number of very many digits", bent.body(bent.huge_number), digits=10_000),
    "nested": _junk("arrays in arrays", bent.body(bent.nested), depth=100_000),
    "duplicate_keys": _junk("the first member twice", bent.body(bent.duplicate_keys)),
    "error_in_200": _junk("an error object with status 200", bent.body(
        lambda _body, _call: b'{"code": 500, "reason": "CREATE_TASK_FAILED", "message": "try later"}')),
    "status": _junk("the right body under another status", bent.status, code=500),
    "redirect": Fault(phases=_SPD, text="somebody else's address", bend=bent.redirect,
                      args={"code": 307, "to": "http://127.0.0.1:9/elsewhere"}),
    # Refusals, in the vendor's own words. Nothing was accepted, except where the name says so.
    "rate_limited": _error("rate_limited", "too many requests; retry_after is sent as it is given"),
    "no_credit": _error("no_credit", "the account is empty"),
    "key_revoked": _error("bad_key", "the key is not accepted any more"),
    "forbidden": _error("permission", "the account may not use this"),
    "model_removed": _error("unknown_slug", "the model is gone"),
    "invalid": _error("invalid", "the request is found wrong"),
    "policy": _error("policy", "the content is refused", "submit"),
    "capacity": _error("capacity", "no free channel"),
    "server_error": _error("server_error", "fails without doing the work", *PHASES),
    "server_error_after_accept": _error("server_error", "does the work, then says it failed", works=True),
    "unavailable": _error("unavailable", "out of service", *PHASES),
    "maintenance": Fault(phases=_SPD, text="a proxy's HTML page with 503", works=False,
                         bend=bent.maintenance),
    # Ids.
    "id_missing": _id("accepted without an id", None),
    "id_empty": _id("an empty id", ""),
    "id_number": _id("a number as id", 12345),
    "id_long": _id("an id of 10 kB", "x" * 10_000),
    "id_path": _id("an id that climbs a path", "a/../../admin/ledger"),
    "id_newline": _id("an id with a line break", "a\r\nx-injected: 1"),
    "id_duplicate": Fault(phases=_S, text="the id of this vendor's previous task",
                          bend=bent.task_id(lambda own, call: call.previous_id or own)),
    # What a poll says.
    "not_found": Fault(phases=_P, text="the task is not known, for a while", times=2, error="not_found",
                       args=_ERROR_ARGS),
    "unknown_status": Fault(phases=_P, text="a status nobody knows", times=3,
                            args={"word": "TASK_STATUS_BAKING"},
                            bend=bent.status_word(lambda _word, call: str(call.args["word"]))),
    "status_case": Fault(phases=_P, text="the status in other letter case", times=None,
                         bend=bent.status_word(lambda word, _call: word.swapcase())),
    "stuck": Fault(phases=_P, text="queued for ever", times=None, retell=bent.stuck),
    "backwards": Fault(phases=_P, text="done without a video, then queued", times=2, retell=bent.backwards),
    "flapping": Fault(phases=_P, text="queued and processing in turn", times=None, retell=bent.flapping),
    "jumping_progress": Fault(phases=_P, text="80, 20, 150, -5", times=None, retell=bent.jumping_progress),
    "failed": Fault(phases=_P, text="the render fails, charged", times=None, retell=bent.failed,
                    args={"reason": "generation failed", "code": "service_error"}),
    "no_output": Fault(phases=_P, text="done, and no list of videos", times=None, retell=bent.videos(None)),
    "empty_output": Fault(phases=_P, text="done, and an empty list", times=None, retell=bent.videos(0)),
    "several_outputs": Fault(phases=_P, text="done, and three videos", times=None, retell=bent.videos(3)),
    "dead_link": Fault(phases=_P, text="a link that leads nowhere", times=None, retell=bent.dead_link),
    "short_link": Fault(phases=_P, text="links that die sooner than said", times=None, retell=bent.short_link,
                        args={"seconds": 0.0}),
    # Files.
    "no_ranges": Fault(phases=_D, text="ranges are not known", times=None, bend=bent.without_ranges),
    "other_bytes": Fault(phases=_D, text="other bytes on every try", times=None, bend=bent.other_bytes),
    "html_file": Fault(phases=_D, text="a page instead of the file", bend=bent.body(bent.html, "text/html")),
}


class Armed(msgspec.Struct, kw_only=True):
    """A fault waiting to strike: `left` times more, None for always. `vendor` `*` means any."""

    name: str
    phase: Phase
    args: dict[str, str | int | float]
    vendor: str = "*"
    left: int | None = 1
    used: int = 0

    @property
    def fault(self) -> Fault:
        """Its row."""
        return FAULTS[self.name]


class Directives(msgspec.Struct, frozen=True):
    """What a prompt asks of the simulator, and what is left: the words, and the caller's own reference."""

    words: str
    reference: str | None
    faults: list[Armed]


def arm(name: str, given: Mapping[str, object]) -> Armed:
    """A fault and its arguments. Raises ValueError for an unknown name, phase or argument, or a bad value."""
    if name not in FAULTS:
        raise ValueError(f"no fault is called {name!r}")
    fault = FAULTS[name]
    rest = {key: str(value) for key, value in given.items()}
    phase = rest.pop("phase", fault.phases[0])
    if phase not in fault.phases:
        raise ValueError(f"{name} strikes at {', '.join(fault.phases)}, not at {phase}")
    vendor = rest.pop("vendor", "*")
    if vendor not in {"*", *VENDOR_NAMES}:
        raise ValueError(f"no vendor is called {vendor!r}")
    usual = "always" if phase == "submit" or fault.times is None else fault.times
    times = rest.pop("times", usual)
    left = None if times == "always" else int(times)
    if unknown := rest.keys() - fault.args.keys():
        raise ValueError(f"{name} has no argument {', '.join(sorted(unknown))}")
    args = {key: type(default)(rest.get(key, default)) for key, default in fault.args.items()}
    return Armed(name=name, phase=phase, args=args, vendor=vendor, left=left)


def directives(prompt: str) -> Directives:
    """The directives in a prompt. Raises ValueError as `arm`: a misspelt one must not pass for a good run."""
    reference, faults = None, []
    for kind, text in _DIRECTIVE.findall(prompt):
        if kind == "ref":
            reference = text
            continue
        name, *pairs = shlex.split(text) or [""]
        faults.append(arm(name, dict(pair.partition("=")[::2] for pair in pairs)))
    return Directives(" ".join(_DIRECTIVE.sub(" ", prompt).split()), reference, faults)


def take(
    armed: Iterable[Armed], vendor: str, phase: Phase, previous_id: str | None = None,
) -> list[tuple[Fault, Call]]:
    """Those that strike now, each one used up by one."""
    struck = []
    for one in armed:
        if one.phase != phase or one.vendor not in {"*", vendor} or one.left == 0:
            continue
        struck.append((one.fault, Call(args=one.args, used=one.used, previous_id=previous_id)))
        one.used += 1
        one.left = None if one.left is None else one.left - 1
    return struck
