"""A create as JSON or as multipart/form-data: two spellings of one decoded body.

A form's text becomes what JSON would hold, by the types of `CreateBody`; a file becomes a data URI; names in
brackets become lists and objects. Memory is bounded: what arrives is counted, and refused where the budget is
used up. Not held here: what a body may say (`wire`), what is wrong with an image (`images`).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Literal, Self, TypeAlias, TypeVar, get_args, get_origin

import msgspec
from litestar import Request
from multipart import (  # type: ignore[import-untyped]
    MultipartError,
    MultipartSegment,
    ParserLimitReached,
    PushMultipartParser,
    parse_options_header,
)

from gateway.api.edge import header_of
from gateway.api.gateway import at_rest, gateway_of
from gateway.api.images import as_data_uri
from gateway.api.reading import ERRORS_MAX, members, read_object, read_value, refuse, shortened
from gateway.api.wire import CreateBody
from gateway.errors import FieldError, Problem

T = TypeVar("T")
Tree: TypeAlias = "str | list[Tree] | dict[str, Tree]"

LOOP_MAX_BYTES: Final = 256 * 1024  # a few milliseconds' worth of decoding; more is decoded beside the loop
BODY_MAX_BYTES: Final = 30 * 1024 * 1024
ROOM_SECONDS: Final = 10.0  # that a large body waits for room, unread
PARTS_MAX: Final = 256
HEADER_MAX_BYTES: Final = 4_096  # one header line of a part: its name, and that of its file
FILE_FIELDS: Final = frozenset({"image", "end_image", "input_reference"})

_FORM: Final = "multipart/form-data"
_BOUNDARY_MAX_CHARS: Final = 200  # RFC 2046 has 70
_NAME: Final = re.compile(r"([^\[\]]*)((?:\[[^\[\]]*\])*)")
_KEYED: Final = re.compile(r"([^\[\]]+)\[((?!.*\]\[).+)\]", re.DOTALL)  # a label may have brackets in it
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})(?:[eE][+-]?[0-9]{1,2})?")
_BOOLEANS: Final = {"true": True, "false": False}
_TWICE: Final = "Is given more than once, or in more than one way."
_BUSY: Final = "As much image data as the gateway can hold is on its way; nothing of this was stored or sent."


class Part(msgspec.Struct):
    """One part of a form. `filename` is None for text."""

    name: str
    content: bytearray
    filename: str | None = None


class Arrival:
    """The time for which a body, and what is made of it, is in memory, counted in a budget that all share.

    A large one that says how long it is waits for room before it is read, to be asked for with `async with`.
    """

    def __init__(self, request: Request[Any, Any, Any]) -> None:
        self._request = request
        self._budget = gateway_of(request).bodies
        self._seen = 0
        self.announced = _announced(request)
        self.taken = 0

    @property
    def is_small(self) -> bool:
        """Whether it is surely so small that it is not counted."""
        return self.announced is not None and self.announced <= LOOP_MAX_BYTES

    async def __aenter__(self) -> Self:
        """Raises Problem overloaded when no room comes."""
        if self.announced is not None and LOOP_MAX_BYTES < self.announced <= BODY_MAX_BYTES:
            at_rest(self._request)  # it waits for memory, and must hold up nobody who needs none
            try:
                async with asyncio.timeout(ROOM_SECONDS):
                    await self._budget.enter(self.announced)
            except TimeoutError:
                raise Problem("overloaded", _BUSY) from None
            self.taken = self.announced
        return self

    async def __aexit__(self, *_: object) -> None:
        taken, self.taken = self.taken, 0
        if taken:
            self._budget.give(taken)

    def count(self, size: int) -> None:
        """Count bytes that have come. Raises Problem overloaded when there is no room for them."""
        self._seen += size
        more = self._seen - self.taken
        if more <= 0:
            return
        if not self._budget.take(more):
            raise Problem("overloaded", _BUSY)
        self.taken += more


async def beside(request: Request[Any, Any, Any], size: int, work: Callable[[], T]) -> T:
    """Do `work` on `size` bytes: here where they are few, else in a thread, a few bodies at a time."""
    if size <= LOOP_MAX_BYTES:
        return work()
    async with gateway_of(request).decoding.held(size):
        return await asyncio.to_thread(work)


async def read_body(request: Request[Any, Any, Any], arrival: Arrival) -> dict[str, object]:
    """The body of a create, JSON or a form, as JSON would hold it. Raises Problem."""
    boundary = boundary_of(request)
    if boundary is None:
        if arrival.is_small:
            return read_object(await _small(request))
        content = await _whole(request, arrival)
        return await beside(request, len(content), lambda: read_object(content))
    parts = await read_parts(request, boundary, arrival)
    return await beside(request, sum(len(part.content) for part in parts), lambda: folded(parts))


async def _small(request: Request[Any, Any, Any]) -> bytes:
    """A short body, taken from the server: the framework makes itself ready for a long one each time."""
    content, is_whole = b"", False
    while not is_whole:
        message = await request.receive()
        if message["type"] != "http.request":
            raise Problem("invalid_request", "The body broke off.")
        content += message["body"]
        is_whole = not message["more_body"]
    return content


async def _whole(request: Request[Any, Any, Any], arrival: Arrival) -> bytearray:
    content = bytearray()
    async for chunk in request.stream():
        arrival.count(len(chunk))
        content += chunk
    return content


def _announced(request: Request[Any, Any, Any]) -> int | None:
    """How long the body is said to be; None where that is not said."""
    length = header_of(request.scope, b"content-length") or ""
    return int(length[:20]) if length.isascii() and length.isdigit() else None


# --- the parts of a form ------------------------------------------------------------------------------------


def boundary_of(request: Request[Any, Any, Any]) -> str | None:
    """What stands between the parts of a form; None for a body that is no form. Raises Problem."""
    kind = header_of(request.scope, b"content-type") or ""
    if kind[: len(_FORM)].lower() != _FORM:
        return None
    boundary: str = parse_options_header(kind)[1].get("boundary", "")
    if not 0 < len(boundary) <= _BOUNDARY_MAX_CHARS or not boundary.isascii() or not boundary.isprintable():
        raise Problem("invalid_request", "The Content-Type of a form must name its boundary.")
    return boundary


async def read_parts(request: Request[Any, Any, Any], boundary: str, arrival: Arrival) -> list[Part]:
    """The parts of a form. Raises Problem."""
    parts: list[Part] = []
    try:
        with PushMultipartParser(
            boundary, max_header_size=HEADER_MAX_BYTES, max_segment_count=PARTS_MAX
        ) as parser:
            async for chunk in request.stream():
                arrival.count(len(chunk))
                if chunk and not parser.closed:
                    _collect(parts, parser.parse(chunk))
    except ParserLimitReached:
        limits = f"{PARTS_MAX} parts, and {HEADER_MAX_BYTES} bytes in each line of a part's head"
        raise Problem("invalid_request", f"The form has more than {limits}.") from None
    except MultipartError as error:
        raise Problem("invalid_request", f"The body is no valid form: {shortened(str(error))}.") from None
    return parts


def _collect(parts: list[Part], events: Iterable[MultipartSegment | bytes | bytearray | None]) -> None:
    for event in events:
        if isinstance(event, MultipartSegment):
            filename = event.filename
            if filename is None and (event.content_type or "").startswith("image/"):
                filename = ""  # some clients send a picture without a name
            parts.append(Part(event.name or "", bytearray(), filename))
        elif event is not None:
            parts[-1].content += event


def text_of(part: Part) -> str:
    """The text of a part. Raises Problem when it is none."""
    try:
        text = part.content.decode()
    except UnicodeDecodeError:
        raise _fault(part.name, "Is not UTF-8 text.") from None
    if "\0" in text or "\0" in part.name:
        raise _fault(part.name.replace("\0", ""), "Holds U+0000, which is no text.")
    return text


def _fault(name: str, detail: str) -> Problem:
    pointer = "/" + shortened(name).replace("~", "~0").replace("/", "~1")
    return Problem("invalid_request", f"{shortened(name)}: {detail}", errors=(FieldError(pointer, detail),))


# --- from parts to what JSON would hold ---------------------------------------------------------------------

_FIELDS: Final = {field.name: field.type for field in msgspec.structs.fields(CreateBody)}


def folded(parts: Sequence[Part]) -> dict[str, object]:
    """The body that a form stands for: text as the type of its field, files as data URIs. Raises Problem."""
    given: dict[str, list[tuple[tuple[str, ...], Part]]] = {}
    for part in parts:
        name, path = _place_of(part.name)
        given.setdefault(name, []).append((path, part))
    raw: dict[str, object] = {}
    errors: list[FieldError] = []
    for name, entries in given.items():
        try:
            raw[name] = _value(name, entries)
        except Problem as problem:
            errors += problem.errors
    refuse(errors[:ERRORS_MAX])
    return raw


def _place_of(name: str) -> tuple[str, tuple[str, ...]]:
    """`shots[][prompt]` is the field `shots` and the path ("", "prompt")."""
    keyed = _KEYED.fullmatch(name)
    if keyed is not None and not _has(list, _FIELDS.get(keyed[1], str)):
        return keyed[1], (keyed[2],)
    found = _NAME.fullmatch(name)
    return (name, ()) if found is None else (found[1], tuple(re.findall(r"\[(.*?)\]", found[2])))


def _value(name: str, entries: Sequence[tuple[tuple[str, ...], Part]]) -> object:
    files = [part for _, part in entries if part.filename is not None]
    if not files:
        leaves = [(path, text_of(part)) for path, part in entries]
        kind = _FIELDS.get(name, str)
        return _typed(_assembled(name, leaves, is_list=_has(list, kind)), kind, name)
    if name not in FILE_FIELDS:
        raise _fault(name, "Takes no file.")
    if len(entries) > 1 or entries[0][0]:
        raise _fault(name, "Give one file, and nothing else under this name.")
    uri = as_data_uri(files[0].content)
    if uri is None:
        raise _fault(name, "The file is neither a PNG nor a JPEG.")
    return {"image_url": uri} if name == "input_reference" else uri


def _assembled(name: str, leaves: Sequence[tuple[tuple[str, ...], str]], *, is_list: bool) -> Tree:
    """The tree that the paths of one field describe; they must all be of one kind."""
    paths = [path for path, _ in leaves]
    if len(leaves) == 1 and not paths[0]:
        return leaves[0][1]
    if is_list and all(path in ((), ("",)) for path in paths) and len(set(paths)) == 1:
        return [text for _, text in leaves]
    if is_list and all(len(path) == 2 and path[0] == "" for path in paths):
        return _regrouped([(path[1], text) for path, text in leaves])
    if is_list and all(path and path[0].isdecimal() and len(path) <= 2 for path in paths):
        return _indexed(name, leaves)
    if not is_list and all(len(path) == 1 for path in paths) and len(set(paths)) == len(paths):
        return {path[0]: text for path, text in leaves}
    raise _fault(name, _TWICE)


def _regrouped(pairs: Sequence[tuple[str, str]]) -> Tree:
    """Items by order: the second `[][prompt]` and the second `[][duration]` are of the second item."""
    items: list[dict[str, Tree]] = []
    counts: dict[str, int] = {}
    for key, text in pairs:
        index = counts.get(key, 0)
        counts[key] = index + 1
        if index == len(items):
            items.append({})
        items[index][key] = text
    return list(items)


def _indexed(name: str, leaves: Sequence[tuple[tuple[str, ...], str]]) -> Tree:
    """Items by their numbers, which must be 0, 1, 2, ... without a gap."""
    items: dict[int, Tree] = {}
    for path, text in leaves:
        index, key = int(path[0][:9]), path[1:]
        item = items.setdefault(index, {}) if key else items.get(index)
        if not key and item is None:
            items[index] = text
        elif key and isinstance(item, dict) and key[0] not in item:
            item[key[0]] = text
        else:
            raise _fault(name, _TWICE)
    if sorted(items) != list(range(len(items))):
        raise _fault(name, "Its items must be numbered 0, 1, 2, ...")
    return [items[index] for index in range(len(items))]


# --- text by type -------------------------------------------------------------------------------------------


def _has(wanted: type, kind: Any) -> bool:  # noqa: ANN401 (a type)
    return any((get_origin(member) or member) is wanted for member, _ in members(kind))


def _typed(value: Tree, kind: Any, name: str) -> object:  # noqa: ANN401 (likewise)
    """`value` with each text as the type that `kind` has in its place; what does not fit stays text."""
    for member, _ in members(kind):
        origin = get_origin(member) or member
        if isinstance(value, list) and origin is list:
            return [_typed(item, get_args(member)[0], name) for item in value]
        if isinstance(value, dict) and origin is dict:
            return {key: _typed(item, get_args(member)[1], name) for key, item in value.items()}
        if isinstance(value, dict) and isinstance(origin, type) and issubclass(origin, msgspec.Struct):
            kinds = {field.name: field.type for field in msgspec.structs.fields(origin)}
            return {key: _typed(item, kinds.get(key, str), name) for key, item in value.items()}
    return _scalar(value, kind, name) if isinstance(value, str) else value


def _scalar(text: str, kind: Any, name: str) -> object:  # noqa: ANN401 (likewise)
    origins = [get_origin(member) or member for member, _ in members(kind)]
    structs = [each for each in origins if isinstance(each, type) and issubclass(each, msgspec.Struct)]
    if (list in origins and text.startswith("[")) or ((dict in origins or structs) and text.startswith("{")):
        return _json(text, name)
    if str in origins or Literal in origins:
        return text
    if list in origins:  # one item alone
        return [_typed(text, get_args(_list_in(kind))[0], name)]
    if bool in origins:
        return _BOOLEANS.get(text.lower(), text)
    if int in origins and _INTEGER.fullmatch(text):
        return int(text)
    if float in origins and _NUMBER.fullmatch(text):
        return float(text)
    return text


def _list_in(kind: Any) -> Any:  # noqa: ANN401 (likewise)
    return next(member for member, _ in members(kind) if get_origin(member) is list)


def _json(text: str, name: str) -> object:
    try:
        return read_value(text.encode())
    except Problem as problem:
        raise _fault(name, problem.detail.replace("The body", "The text", 1)) from None
