"""Images that callers upload first and name in a create later; and how a vendor fetches one.

An upload is checked when it comes, belongs to its caller alone, and goes after its time. A create copies it,
so a video needs no upload any more. Not held here: rows (`gateway.storage.uploads`), forms (`forms`), which
vendor is given a URL (`gateway.engine.handing`).
"""

from __future__ import annotations

import base64
import re
import secrets
from functools import partial
from typing import Annotated, Any, Final, Literal

import msgspec
from litestar import Request, Response, delete, get, post, route
from litestar.enums import HttpMethod
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath

from gateway.api.base import under_base
from gateway.api.edge import header_of
from gateway.api.forms import Arrival, Part, beside, boundary_of, read_parts, text_of
from gateway.api.gateway import Gateway, caller_of, gateway_of
from gateway.api.images import IMAGE_MAX_BYTES, Checked, as_data_uri, check_image
from gateway.api.problems import responses
from gateway.api.reading import refuse
from gateway.engine.handing import PURPOSE
from gateway.engine.request import IMAGE_FIELDS
from gateway.errors import FieldError, Problem, invalid
from gateway.storage.uploads import UploadRow

UPLOAD_MAX_BYTES: Final = IMAGE_MAX_BYTES + 64 * 1024  # with what a form has around it
UPLOADS_MAX: Final = 10_000  # of one caller
UPLOADS_MAX_BYTES: Final = 2_000_000_000  # of one caller, together
NAME_MAX_CHARS: Final = 255
PURPOSE_MAX_CHARS: Final = 64
_ID: Final = re.compile(r"file_[0-9a-f]{32}")
_PLACE: Final = re.compile(r"/v1/files/(file_[0-9a-f]{32})(?:/content)?")
_INPUT: Final = re.compile(r"(video_[0-9a-f]{32})-(image|end_image)")
_EXTENSIONS: Final = {"image/png": "png", "image/jpeg": "jpg"}
_GONE: Final = "There is no upload {id} of yours; it was never there, was deleted, or its time is over."


class FileObject(msgspec.Struct, frozen=True, kw_only=True):
    """An upload in the OpenAI shape. `url` and `id` are usable as `image`; times in Unix seconds."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"
    url: str


class UploadGone(Problem):
    """A create names an upload that is not there, or not there any more."""


class FileDeleted(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a delete."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class UploadForm(msgspec.Struct, frozen=True, kw_only=True):
    """An upload: a PNG or JPEG under the rules for `image`, and what the OpenAI client sends with it."""

    file: Annotated[str, msgspec.Meta(extra_json_schema={"format": "binary"})]
    purpose: Annotated[str, msgspec.Meta(max_length=PURPOSE_MAX_CHARS)] = "vision"


@post(
    "/v1/files", status_code=200, request_max_body_size=UPLOAD_MAX_BYTES,
    opt={"role": "caller", "scope": "files"},
    responses=responses(413), summary="Upload an image", tags=["files"],
)
async def upload_file(request: Request[Any, Any, Any]) -> FileObject:
    """Store an image for creates to come; multipart/form-data with the file under `file`.

    The rules are those for `image`. It is kept for as long as files are (`[files] retention`).
    """
    boundary = boundary_of(request)
    if boundary is None:
        raise Problem("invalid_request", "Send multipart/form-data with the image under `file`.")
    gateway, owner = gateway_of(request), caller_of(request).owner
    async with Arrival(request) as arrival:
        part, purpose = _parts(await read_parts(request, boundary, arrival))
        uri, checked = await beside(request, len(part.content), partial(_checked, part))
        await _check_quota(gateway, owner, len(part.content))
        row = _row(gateway, owner, part, purpose, checked)
        await gateway.store.uploads.add(row, uri)
    return _shown(row)


@get(
    "/v1/files/{file_id:str}", opt={"role": "viewer", "scope": "files"}, responses=responses(404),
    summary="An upload", tags=["files"],
)
async def get_file(request: Request[Any, Any, Any], file_id: FromPath[str]) -> FileObject:
    """What is known of an upload of the caller's."""
    gateway = gateway_of(request)
    _check_id(file_id)
    row = await gateway.store.uploads.get(file_id, caller_of(request).owner, gateway.now())
    if row is None:
        raise _absent(file_id)
    return _shown(row)


@delete(
    "/v1/files/{file_id:str}", status_code=200,
    opt={"role": "caller", "scope": "files"}, responses=responses(404),
    summary="Delete an upload", tags=["files"],
)
async def delete_file(request: Request[Any, Any, Any], file_id: FromPath[str]) -> FileDeleted:
    """Remove an upload; videos that were asked for with it keep their own copy."""
    _check_id(file_id)
    if not await gateway_of(request).store.uploads.delete(file_id, caller_of(request).owner):
        raise _absent(file_id)
    return FileDeleted(id=file_id)


def _parts(parts: list[Part]) -> tuple[Part, str]:
    """The file and its purpose. Raises Problem for anything else."""
    files = [part for part in parts if part.name == "file"]
    purposes = [text_of(part) for part in parts if part.name == "purpose"]
    errors = [
        FieldError(f"/{part.name[:40]}", "There is no such field.")
        for part in parts if part.name not in ("file", "purpose")
    ]
    if len(files) != 1 or files[0].filename is None:
        errors.append(FieldError("/file", "Give one file."))
    purpose = purposes[0] if purposes else "vision"
    if len(purposes) > 1 or not 0 < len(purpose) <= PURPOSE_MAX_CHARS or not purpose.isprintable():
        errors.append(FieldError("/purpose", f"Give one purpose of at most {PURPOSE_MAX_CHARS} characters."))
    refuse(errors)
    return files[0], purpose


def _checked(part: Part) -> tuple[str, Checked]:
    """The file as a data URI, and what was found of it. Raises Problem."""
    uri = as_data_uri(part.content)
    if uri is None:
        raise invalid("/file", "The file is neither a PNG nor a JPEG.")
    checked = check_image("/file", uri)
    refuse(checked.errors)
    return uri, checked


async def _check_quota(gateway: Gateway, owner: str, size: int) -> None:
    count, total = await gateway.store.uploads.sizes(owner, gateway.now())
    if count >= UPLOADS_MAX or total + size > UPLOADS_MAX_BYTES:
        detail = f"A caller keeps at most {UPLOADS_MAX} uploads and {UPLOADS_MAX_BYTES} bytes; delete some."
        raise Problem("quota_exceeded", detail)


def _row(gateway: Gateway, owner: str, part: Part, purpose: str, checked: Checked) -> UploadRow:
    now = gateway.now()
    kind = "image/png" if part.content.startswith(b"\x89PNG") else "image/jpeg"
    name = "".join(letter for letter in part.filename or "" if letter.isprintable())[:NAME_MAX_CHARS]
    return UploadRow(
        id=f"file_{secrets.token_hex(16)}", owner=owner, filename=name or f"image.{_EXTENSIONS[kind]}",
        purpose=purpose, content_type=kind, bytes=len(part.content), sha256=checked.sha256 or "",
        created_at=now, expires_at=now + gateway.fleet.settings.files.retention,
    )


def _shown(row: UploadRow) -> FileObject:
    return FileObject(
        id=row.id, bytes=row.bytes, created_at=int(row.created_at), expires_at=int(row.expires_at),
        filename=row.filename, purpose=row.purpose, url=under_base(f"/v1/files/{row.id}/content"),
    )


def _check_id(file_id: str) -> None:
    """Raises Problem not_found for what is no id: not every database can even be asked for it."""
    if not _ID.fullmatch(file_id):
        raise _absent(file_id)


def _absent(file_id: str) -> Problem:
    return Problem("not_found", f"There is no upload {file_id[:80]!r} of yours.")


# --- the bytes ----------------------------------------------------------------------------------------------

_IMAGES: Final = {
    200: ResponseSpec(bytes, generate_examples=False, media_type="image/png", description="A PNG or a JPEG"),
}


@route(
    "/v1/files/{file_id:str}/content", http_method=[HttpMethod.GET, HttpMethod.HEAD],
    opt={"role": "viewer", "scope": "files", "signed": PURPOSE}, media_type="image/png",
    responses=_IMAGES | responses(404, 410), summary="The bytes of an upload", tags=["files"],
)
async def get_file_content(request: Request[Any, Any, Any], file_id: FromPath[str]) -> Response[bytes]:
    """The image: an upload of the caller's by key, or what a signed URL of the gateway's names, without."""
    gateway, uploads = gateway_of(request), gateway_of(request).store.uploads
    if "caller" in request.scope["state"]:
        _check_id(file_id)
        if request.method == "HEAD":
            row = await uploads.get(file_id, caller_of(request).owner, gateway.now())
            if row is None:
                raise _absent(file_id)
            return _sent(file_id, row.content_type, row.bytes)
        uri = await uploads.content(file_id, caller_of(request).owner, gateway.now())
    else:
        found = _INPUT.fullmatch(file_id)
        uri = None if found is None else await uploads.input(found[1], found[2])
    if uri is None:
        raise _absent(file_id)
    content = await beside(request, len(uri), lambda: base64.b64decode(uri.partition(",")[2]))
    kind = uri[len("data:") : uri.index(";")]
    return _sent(file_id, kind, len(content), b"" if request.method == "HEAD" else content)


def _sent(file_id: str, kind: str, size: int, shown: bytes = b"") -> Response[bytes]:
    headers = {
        "Cache-Control": "private, max-age=0",
        "Content-Disposition": f'inline; filename="{file_id}.{_EXTENSIONS[kind]}"',
        "Content-Length": str(size),
    }
    return Response(shown, headers=headers, media_type=kind)


# --- in a create --------------------------------------------------------------------------------------------


async def resolve_uploads(request: Request[Any, Any, Any], raw: dict[str, object], arrival: Arrival) -> None:
    """Put an upload of the caller's in each place of a create that names one. Raises Problem, UploadGone."""
    for field in IMAGE_FIELDS:
        named = _named(request, raw.get(field))
        if named is not None:
            raw[field] = await _content(request, named, f"/{field}", arrival)
    reference = raw.get("input_reference")
    if not isinstance(reference, dict):
        return
    by_id, by_url = reference.get("file_id"), reference.get("image_url")
    if isinstance(by_id, str) and by_url is None:
        uri = await _content(request, by_id, "/input_reference/file_id", arrival)
        raw["input_reference"] = {**reference, "file_id": None, "image_url": uri}
    elif (named := _named(request, by_url)) is not None:
        uri = await _content(request, named, "/input_reference/image_url", arrival)
        raw["input_reference"] = {**reference, "image_url": uri}


def _named(request: Request[Any, Any, Any], value: object) -> str | None:
    """The id in what a create has for an image, if that names an upload here: its id or its URL."""
    if not isinstance(value, str) or value.startswith("data:"):
        return None
    if _ID.fullmatch(value):
        return value
    host = header_of(request.scope, b"host") or ""
    public_url = gateway_of(request).fleet.settings.server.public_url
    here = under_base("")
    for base in (here, f"http://{host}{here}", f"https://{host}{here}", public_url or here):
        found = _PLACE.fullmatch(value.removeprefix(base))
        if found is not None:
            return found[1]
    return None


async def _content(request: Request[Any, Any, Any], file_id: str, pointer: str, arrival: Arrival) -> str:
    gateway, owner = gateway_of(request), caller_of(request).owner
    is_id = _ID.fullmatch(file_id) is not None
    row = await gateway.store.uploads.get(file_id, owner, gateway.now()) if is_id else None
    if row is not None:
        arrival.count(row.bytes)
    uri = None if row is None else await gateway.store.uploads.content(file_id, owner, gateway.now())
    if uri is None:
        detail = _GONE.format(id=repr(file_id[:80]))
        raise UploadGone("invalid_request", detail, errors=(FieldError(pointer, detail),))
    return uri
