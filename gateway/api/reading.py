"""From a body's bytes to a Struct's fields, with every mistake at once and nothing raised but Problem.

Held here: JSON that has one meaning, and a walk that finds each field outside its declared type and limits.
Not held here: any field of any body, or a rule between fields (`gateway.api.wire`).
"""

from __future__ import annotations

import difflib
import itertools
import json
import re
import types
from collections.abc import Collection, Iterator, Sequence
from typing import Annotated, Any, Final, Literal, NoReturn, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

from gateway.errors import FieldError, Problem

S = TypeVar("S", bound=Struct)

# Of JSON whoever sends it. What a text can hold at most is counted before anything is made of it: a list of
# empty lists takes thirty times the memory of its text.
DEPTH_MAX: Final = 64
KEYS_MAX: Final = 256  # of one object
ITEMS_MAX: Final = 1_000  # of one list
VALUES_MAX: Final = 100_000
ERRORS_MAX: Final = 100  # what one answer lists; it also bounds the work on a body that is made of mistakes
_ECHO_MAX_CHARS: Final = 64  # of what a caller wrote, in a message or pointer
_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")
_TOO_DEEP: Final = f"The body is nested too deeply; {DEPTH_MAX} levels are the most."
_NO_TEXT: Final = "U+0000 or half of a surrogate pair, which is no text"


class _MalformedError(ValueError):
    """Text that a JSON parser takes and that still is no JSON with one meaning."""


def read_object(body: bytes | bytearray) -> dict[str, object]:
    """The JSON object in `body`; no string of it holds U+0000 or half of a surrogate pair. Raises Problem."""
    raw = read_value(body)
    if not isinstance(raw, dict):
        raise Problem("invalid_request", "The body must be a JSON object.")
    return raw


def read_value(body: bytes | bytearray) -> object:
    """As `read_object`, whatever kind of value it is."""
    opened, parted = body.count(b"[") + body.count(b"{"), body.count(b",")
    if opened + parted > VALUES_MAX:
        raise Problem("invalid_request", f"The body holds more than {VALUES_MAX} values, or commas.")
    try:
        raw: object = _DECODER.decode(body.decode())
    except UnicodeDecodeError:
        raise Problem("invalid_request", "The body is not UTF-8 text.") from None
    except RecursionError:
        raise Problem("invalid_request", _TOO_DEEP) from None
    except (json.JSONDecodeError, _MalformedError) as error:
        raise Problem("invalid_request", f"The body is not valid JSON: {error}.") from None
    except ValueError:  # int() refuses thousands of digits
        raise Problem("invalid_request", "The body holds a number with too many digits.") from None
    if opened > DEPTH_MAX or parted >= ITEMS_MAX:  # else it cannot be too deep, nor a list too long
        _check_extent(raw)
    if b"\\u" in body:  # neither can be written in another way
        refuse(list(itertools.islice(_unstorable(raw), ERRORS_MAX)))
    return raw


def read_struct(body: bytes, struct: type[S]) -> S:
    """The `struct` in a body that has no rules but its fields'. Raises Problem with every fault."""
    raw = read_object(body)
    refuse(faults(raw, struct))
    return msgspec.convert(raw, struct)


class _Nothing(Struct, forbid_unknown_fields=True):
    """No field at all."""


def read_nothing(body: bytes) -> None:
    """Raises Problem where `body` says anything: a wish that would not be honoured is refused."""
    if body:
        read_struct(body, _Nothing)


def faults(raw: dict[str, object], struct: type[Struct]) -> list[FieldError]:
    """Every way in which `raw` is no `struct`, at most ERRORS_MAX; none when `msgspec.convert` takes it."""
    try:
        msgspec.convert(raw, struct)
    except msgspec.ValidationError:
        return list(itertools.islice(_struct_faults("", raw, struct), ERRORS_MAX))
    return []


def refuse(errors: Sequence[FieldError]) -> None:
    """Raises Problem with the `errors`, when there are any."""
    if errors:
        first, more = errors[0], len(errors) - 1
        others = f" ({more} more in `errors`.)" if more else ""
        detail = f"{first.pointer[1:] or 'body'}: {first.detail}{others}"
        raise Problem("invalid_request", detail, errors=tuple(errors[:ERRORS_MAX]))


def shortened(text: str) -> str:
    """A caller's text, short enough to be said back or compared."""
    return text if len(text) <= _ECHO_MAX_CHARS else f"{text[:_ECHO_MAX_CHARS]}..."


def nearest(name: str, known: Collection[str]) -> str:
    """A hint that names what `name` may have meant, with a space before it; empty when nothing is near."""
    near = difflib.get_close_matches(shortened(name), known)
    return f" Did you mean {' or '.join(f'`{word}`' for word in near)}?" if near else ""


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(pairs) > KEYS_MAX:
        raise _MalformedError(f"an object has more than {KEYS_MAX} keys")
    if len(found) < len(pairs):
        raise _MalformedError("a key stands twice in one object")
    return found


def _check_extent(raw: object) -> None:
    """Raises Problem where lists and objects nest too deeply, or a list is too long. Level by level."""
    level = [raw]
    for _ in range(DEPTH_MAX + 1):
        lists = [value for value in level if isinstance(value, list)]
        if any(len(value) > ITEMS_MAX for value in lists):
            raise Problem("invalid_request", f"The body has a list of more than {ITEMS_MAX} items.")
        objects = [value.values() for value in level if isinstance(value, dict)]
        level = list(itertools.chain(*lists, *objects))
        if not lists and not objects:
            return
    raise Problem("invalid_request", _TOO_DEEP)


def _constant(word: str) -> NoReturn:
    raise _MalformedError(f"{word} is no JSON number")


# Not msgspec's: that keeps the last of two equal keys without a word.
_DECODER: Final = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)

def _unstorable(raw: object) -> Iterator[FieldError]:
    """Strings that not every database keeps. By a stack: the parser may nest deeper than calls can."""
    stack: list[tuple[str, object]] = [("", raw)]
    while stack:
        pointer, value = stack.pop()
        if isinstance(value, str) and _UNSTORABLE.search(value):
            yield FieldError(pointer, f"Holds {_NO_TEXT}.")
        elif isinstance(value, dict):
            fine = [key for key in value if not _UNSTORABLE.search(key)]
            if len(fine) < len(value):
                yield FieldError(pointer, f"Has a key with {_NO_TEXT}.")
            stack += [(_under(pointer, key), value[key]) for key in fine]
        elif isinstance(value, list):
            stack += [(f"{pointer}/{index}", inner) for index, inner in enumerate(value)]


def _under(pointer: str, key: str) -> str:
    return f"{pointer}/{shortened(key).replace('~', '~0').replace('/', '~1')}"


def _faults(pointer: str, value: object, kind: Any) -> Iterator[FieldError]:  # noqa: ANN401 (a type)
    """Part by part, since msgspec names the first fault only."""
    for member, limits in members(kind):
        origin = get_origin(member) or member
        if isinstance(value, dict) and isinstance(origin, type) and issubclass(origin, Struct):
            yield from _struct_faults(pointer, value, origin)
            return
        if (isinstance(value, dict) and origin is dict) or (isinstance(value, list) and origin is list):
            yield from _length_faults(pointer, len(value), limits)
            yield from _part_faults(pointer, value, get_args(member))
            return
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        enums = [member for member, _ in members(kind) if get_origin(member) is Literal]
        words = [word for enum in enums for word in get_args(enum)]
        yield FieldError(pointer, f"Expected one of {', '.join(words)}." if words else f"{error}.")


def members(kind: Any) -> Iterator[tuple[Any, tuple[Meta, ...]]]:  # noqa: ANN401 (likewise)
    """The alternatives of a type annotation, each with its limits."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        for member in get_args(kind):
            yield from members(member)
    elif origin is Annotated:
        member, *limits = get_args(kind)
        yield member, tuple(limits)
    else:
        yield kind, ()


def _struct_faults(pointer: str, value: dict[str, object], struct: type[Struct]) -> Iterator[FieldError]:
    fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
    for name in value:
        if name not in fields:
            yield FieldError(_under(pointer, name), f"There is no such field.{nearest(name, fields)}")
    for name, field in fields.items():
        if name in value:
            yield from _faults(f"{pointer}/{name}", value[name], field.type)
        elif field.required:
            yield FieldError(f"{pointer}/{name}", "This field is required.")


def _part_faults(
    pointer: str, value: dict[str, object] | list[object], kinds: tuple[Any, ...]
) -> Iterator[FieldError]:
    if isinstance(value, dict):
        for key, inner in itertools.islice(value.items(), ERRORS_MAX):
            yield from _faults(_under(pointer, key), key, kinds[0])
            yield from _faults(_under(pointer, key), inner, kinds[1])
        return
    for index, inner in enumerate(value[:ERRORS_MAX]):
        yield from _faults(f"{pointer}/{index}", inner, kinds[0])


def _length_faults(pointer: str, length: int, limits: tuple[Meta, ...]) -> Iterator[FieldError]:
    for limit in limits:
        if limit.max_length is not None and length > limit.max_length:
            yield FieldError(pointer, f"Has {length} entries; at most {limit.max_length} are taken.")
        if limit.min_length is not None and length < limit.min_length:
            yield FieldError(pointer, f"Has {length} entries; at least {limit.min_length} is needed.")
