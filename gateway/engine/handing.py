"""What a vendor is handed of an image that we hold: its data URI, or a signed URL where it takes URLs only.

Which it takes, its offering declares (`providers.spec.ImageLimits.forms`). A data URI goes wherever it is
taken: it needs nobody to reach us. Not held here: who answers such a URL (`gateway.api.uploads`).
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from gateway.core.routing import Listing
from gateway.engine.request import IMAGE_FIELDS
from gateway.signing import Signer
from providers.spec import Offering, VideoRequest

PURPOSE: Final = "file"  # what the signature of such a URL opens
URL_SECONDS: Final = 3_600  # vendors fetch an image when they accept the job, or when its turn has come
BY_URL: Final = "this offering takes images by URL only, and server.public_url is not set"


def takes(listing: Listing, public_url: str | None) -> Listing:
    """A listing as callers meet it: with a public URL every form is taken, because we can make one a URL."""
    image = listing.offering.image
    if image is None or public_url is None or "url" not in image.forms or "data_uri" in image.forms:
        return listing
    return replace(listing, offering=replace(
        listing.offering, image=replace(image, forms=(*image.forms, "data_uri"))
    ))


def by_url(request: VideoRequest, offering: Offering) -> tuple[str, ...]:
    """The images of a request that this offering has to be given a URL for."""
    if offering.image is None or "data_uri" in offering.image.forms:
        return ()
    return tuple(field for field in IMAGE_FIELDS if (getattr(request, field) or "").startswith("data:"))


def shown(request: VideoRequest, offering: Offering, public_url: str | None) -> VideoRequest:
    """A request as an adapter would get it, with URLs that open nothing."""
    named = {field: f"{public_url}{path_of('[id]', field)}" for field in by_url(request, offering)}
    return replace(request, **named) if named else request


async def handed(
    signer: Signer, request: VideoRequest, fields: tuple[str, ...], public_url: str, *, video_id: str,
    now: float,
) -> VideoRequest:
    """A request with signed URLs for these images, which are stored. Raises StorageError."""
    expires_at = int(now) + URL_SECONDS
    named = {}
    for field in fields:
        query = await signer.query(PURPOSE, input_id(video_id, field), expires_at)
        named[field] = f"{public_url}{path_of(video_id, field)}?{query}"
    return replace(request, **named)


def input_id(video_id: str, field: str) -> str:
    """The id of a video's image among the files."""
    return f"{video_id}-{field}"


def path_of(video_id: str, field: str) -> str:
    """Where a vendor fetches it."""
    return f"/v1/files/{input_id(video_id, field)}/content"
