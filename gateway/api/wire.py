"""What comes in: the body of a create, every rule of contract 2.1, and the request that follows from it.

Held here: the body's fields and limits as the published document shows them (`CreateBody`), the rules between fields
(`RULES`), aliases, the fingerprint for idempotency. Not held here: images (`images`), what an offering takes
(`providers.spec.refusals`), headers and routes. Nothing raises but Problem, whatever the bytes.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
import re
import types
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Annotated, Any, Final, Literal, NoReturn, TypeAlias, Union, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

from gateway.api.images import Checked, check_image
from gateway.api.shapes import SIZES, Size
from gateway.errors import FieldError, Problem
from providers.spec import AspectRatio, Resolution, Shot, VideoRequest

DURATION_MIN_SECONDS: Final = 3
DURATION_MAX_SECONDS: Final = 15
RATIO_TOLERANCE: Final = 0.02  # how far an image given as data may be off the ratio that `size` names
ERRORS_MAX: Final = 100  # what one answer lists; also bounds the work on a body that is made of mistakes
_ECHO_MAX_CHARS: Final = 64  # of what a caller wrote, in a message or pointer

_Prompt: TypeAlias = Annotated[str, Meta(min_length=1, max_length=2500)]
_Name: TypeAlias = Annotated[str, Meta(min_length=1)]
_VoiceId: TypeAlias = Annotated[str, Meta(min_length=1, max_length=256)]
_Label: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64)]
_Seconds: TypeAlias = Annotated[int, Meta(ge=DURATION_MIN_SECONDS, le=DURATION_MAX_SECONDS)]
_SecondsText: TypeAlias = Literal["3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15"]


class ShotBody(Struct, forbid_unknown_fields=True):
    """One segment; `duration` in whole seconds."""

    prompt: Annotated[str, Meta(min_length=1, max_length=512)]
    duration: Annotated[int, Meta(ge=1, le=DURATION_MAX_SECONDS)]


class ImageReference(Struct, forbid_unknown_fields=True):
    """The OpenAI form of `image`: a URL or a data URI."""

    image_url: str


class CreateBody(Struct, forbid_unknown_fields=True, kw_only=True):
    """A create. A field that is null is a field left out. `seconds`, `size`, `input_reference` are OpenAI's words."""

    model: str | None = None
    prompt: _Prompt | None = None
    negative_prompt: Annotated[str, Meta(max_length=2500)] | None = None
    image: str | None = None
    end_image: str | None = None
    shots: Annotated[list[ShotBody], Meta(min_length=1, max_length=6)] | None = None
    resolution: Resolution | None = None
    aspect_ratio: AspectRatio | None = None
    duration: _Seconds | None = None
    audio: bool | None = None
    voice_ids: Annotated[list[_VoiceId], Meta(min_length=1, max_length=2)] | None = None
    cfg_scale: Annotated[float, Meta(ge=0, le=1)] | None = None
    provider: _Name | Annotated[list[_Name], Meta(min_length=1)] | None = None
    priority: Annotated[int, Meta(ge=-10, le=10)] | None = None
    metadata: Annotated[dict[_Label, Annotated[str, Meta(max_length=512)]], Meta(max_length=16)] | None = None
    webhook_url: str | None = None
    deadline: Annotated[int, Meta(ge=1, le=2_592_000)] | None = None
    seconds: _Seconds | _SecondsText | None = None
    size: Size | None = None
    input_reference: ImageReference | None = None


class Known(Struct, frozen=True):
    """What a request may name: the models and providers that are enabled, and the model of a request that names none."""

    models: tuple[str, ...]
    providers: tuple[str, ...]
    default_model: str


class Asked(Struct, frozen=True):
    """A create that keeps every rule. `fingerprint` is equal exactly for bodies that ask for the same."""

    request: VideoRequest
    pins: tuple[str, ...]
    priority: int
    metadata: dict[str, str]
    deadline_seconds: int | None
    fingerprint: str


def read_create(body: bytes, known: Known) -> Asked:
    """The request in `body`. Raises Problem invalid_request with every broken rule (at most ERRORS_MAX)."""
    raw = _decode(body)
    errors = list(itertools.islice(_faults("", raw, CreateBody), ERRORS_MAX))
    broken = {error.pointer.split("/")[1] for error in errors}
    given = msgspec.convert({name: value for name, value in raw.items() if name not in broken}, CreateBody)
    asked, found = _fold(given, broken)
    errors += found
    for fields, rule in RULES:
        if broken.isdisjoint(fields):
            errors += rule(asked, known)
    images = {field: check_image(*image) for field, image in _images(given, asked)}
    for image in images.values():
        errors += image.errors
    errors += _size_faults(given, images.get("image"))
    _refuse(errors)
    return _asked(asked, known, images)


# --- from bytes to fields ---------------------------------------------------------------------------------------------

_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")


class _Malformed(ValueError):
    """Text that a JSON parser may take and that is still no JSON with one meaning."""


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _Malformed("a key stands twice in one object")
    return found


def _constant(word: str) -> NoReturn:
    raise _Malformed(f"{word} is no JSON number")


def _decode(body: bytes) -> dict[str, object]:
    """The object in `body`. Not msgspec's decoder: that keeps the last of two equal keys without a word."""
    try:
        raw = json.loads(body.decode(), object_pairs_hook=_object, parse_constant=_constant)
    except UnicodeDecodeError:
        raise Problem("invalid_request", "The body is not UTF-8 text.") from None
    except RecursionError:
        raise Problem("invalid_request", "The body is nested too deeply.") from None
    except (json.JSONDecodeError, _Malformed) as error:
        raise Problem("invalid_request", f"The body is not valid JSON: {error}.") from None
    except ValueError:  # int() refuses thousands of digits
        raise Problem("invalid_request", "The body holds a number with too many digits.") from None
    if not isinstance(raw, dict):
        raise Problem("invalid_request", "The body must be a JSON object.")
    if b"\\u" in body:  # neither NUL nor a lone surrogate can be written in another way
        _refuse(list(itertools.islice(_unstorable(raw), ERRORS_MAX)))
    return raw


def _unstorable(raw: dict[str, object]) -> Iterator[FieldError]:
    """Strings that no database keeps. By a stack: the parser may nest deeper than calls can."""
    stack: list[tuple[str, object]] = [("", raw)]
    while stack:
        pointer, value = stack.pop()
        if isinstance(value, str) and _UNSTORABLE.search(value):
            yield FieldError(pointer, "Holds U+0000 or half of a surrogate pair, which is no text.")
        elif isinstance(value, dict):
            if any(_UNSTORABLE.search(key) for key in value):
                yield FieldError(pointer, "Has a key with U+0000 or half of a surrogate pair, which is no text.")
            stack += [(_under(pointer, key), inner) for key, inner in value.items() if not _UNSTORABLE.search(key)]
        elif isinstance(value, list):
            stack += [(f"{pointer}/{index}", inner) for index, inner in enumerate(value)]


def _under(pointer: str, key: str) -> str:
    return f"{pointer}/{key[:_ECHO_MAX_CHARS].replace('~', '~0').replace('/', '~1')}"


def _faults(pointer: str, value: object, kind: Any) -> Iterator[FieldError]:  # noqa: ANN401 (a type, as msgspec takes it)
    """Every way in which `value` is no `kind`. msgspec names only the first, so it is asked part by part."""
    for member, limits in _members(kind):
        inside = get_args(member)
        match get_origin(member) or member, value:
            case type() as struct, dict() if issubclass(struct, Struct):
                yield from _struct_faults(pointer, value, struct)
                return
            case (builtin, dict()) if builtin is dict:
                yield from _length_faults(pointer, len(value), limits)
                for key, inner in value.items():
                    yield from _faults(_under(pointer, key), key, inside[0])
                    yield from _faults(_under(pointer, key), inner, inside[1])
                return
            case (builtin, list()) if builtin is list:
                yield from _length_faults(pointer, len(value), limits)
                for index, inner in enumerate(value[:ERRORS_MAX]):
                    yield from _faults(f"{pointer}/{index}", inner, inside[0])
                return
            case _:
                continue
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        words = [word for member, _ in _members(kind) if get_origin(member) is Literal for word in get_args(member)]
        is_word = isinstance(value, str) and bool(words)
        yield FieldError(pointer, f"Expected one of {', '.join(words)}." if is_word else f"{error}.")


def _members(kind: Any) -> Iterator[tuple[Any, tuple[Meta, ...]]]:  # noqa: ANN401
    """The alternatives of a type, each with its limits."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        for member in get_args(kind):
            yield from _members(member)
    elif origin is Annotated:
        member, *limits = get_args(kind)
        yield member, tuple(limits)
    else:
        yield kind, ()


def _struct_faults(pointer: str, value: dict[str, object], struct: type[Struct]) -> Iterator[FieldError]:
    fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
    for name in value:
        if name not in fields:
            yield FieldError(_under(pointer, name), f"There is no such field.{_nearest(name, fields)}")
    for name, field in fields.items():
        if name in value:
            yield from _faults(f"{pointer}/{name}", value[name], field.type)
        elif field.required:
            yield FieldError(f"{pointer}/{name}", "This field is required.")


def _length_faults(pointer: str, length: int, limits: tuple[Meta, ...]) -> Iterator[FieldError]:
    for limit in limits:
        if limit.max_length is not None and length > limit.max_length:
            yield FieldError(pointer, f"Has {length} entries; at most {limit.max_length} are taken.")
        if limit.min_length is not None and length < limit.min_length:
            yield FieldError(pointer, f"Has {length} entries; at least {limit.min_length} is needed.")


def _nearest(name: str, known: Collection[str]) -> str:
    """A hint, from a piece of the name: comparing is quadratic."""
    near = difflib.get_close_matches(name[:_ECHO_MAX_CHARS], known)
    return f" Did you mean {' or '.join(f'`{word}`' for word in near)}?" if near else ""


def _refuse(errors: list[FieldError]) -> None:
    """Raises Problem when there are any."""
    if errors:
        first, more = errors[0], len(errors) - 1
        detail = f"{first.pointer[1:] or 'body'}: {first.detail}" + (f" ({more} more in `errors`.)" if more else "")
        raise Problem("invalid_request", detail, errors=tuple(errors[:ERRORS_MAX]))
