"""Links to a video's file that need no key: signed, for that one file, until a moment.

Not held here: the signature (`gateway.signing`), who is let in by one (`signed`), the file (`content`).
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from litestar import Request, post
from litestar.params import FromPath
from msgspec import Meta

from gateway.api.base import under_base
from gateway.api.content import PURPOSE, check_has_file
from gateway.api.gateway import gateway_of, video_of
from gateway.api.problems import about, responses
from gateway.api.reading import read_struct

LINK_SECONDS: Final = 3_600
LINK_MAX_SECONDS: Final = 7 * 86_400


class LinkOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`expires_in`: how many seconds the link is to live, 1 second to 7 days."""

    expires_in: Annotated[int, Meta(ge=1, le=LINK_MAX_SECONDS)] = LINK_SECONDS


class LinkObject(msgspec.Struct, frozen=True, kw_only=True):
    """A URL for GET and HEAD of one video's content, for whoever has it, until `expires_at`."""

    object: Literal["video.link"] = "video.link"
    video_id: str
    url: str
    expires_at: int


@post(
    "/v1/videos/{video_id:str}/links", status_code=200, opt={"role": "caller", "scope": "videos:write"},
    responses=responses(404, 409), summary="A link to the file that needs no key", tags=["videos"],
)
async def create_link(request: Request[Any, Any, Any], video_id: FromPath[str]) -> LinkObject:
    """Body: `{"expires_in": seconds}`, 1 to 604800, 3600 if absent. Not before there is a file."""
    gateway = gateway_of(request)
    body = await request.body()
    order = read_struct(body, LinkOrder) if body else LinkOrder()
    task = (await video_of(request, video_id)).task
    with about(task):
        check_has_file(task)
    expires_at = int(gateway.now()) + order.expires_in
    query = await gateway.engine.signer.query(PURPOSE, video_id, expires_at)
    base = gateway.fleet.settings.server.public_url or str(request.base_url).rstrip("/") + under_base("")
    return LinkObject(
        video_id=video_id, url=f"{base}/v1/videos/{video_id}/content?{query}", expires_at=expires_at
    )
