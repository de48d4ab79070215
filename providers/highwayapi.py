"""highwayapi (api.highwayapi.ai), which is Jiekou.AI: what it offers. It speaks the "v3 async" protocol.

Held here: data. Not held here: the protocol, its words and its quirks (`providers.v3_async`).

Links: https://docs.jiekou.ai/en/docs/models/reference-kling-v3.0-std-t2v and its neighbours. Quirks:

- The tier is in the slug: std is 720p, pro is 1080p, 4k is 4k. No field asks for a resolution;
  the heights are those of Kling's own modes, these pages do not say them.
- std-t2v takes no shots, on any host of this protocol. 4k-t2v takes them here, though two siblings list none.
- `end_image` is called a URL by its page; `image` is not. Both are passed on as they came.
- The same service answers at https://api.jiekou.ai, which may be the nearer one: set `base_url`.

Left out: kling-v3.0-motion-control (a request has no field for its driving video); kling-o1-*, kling-v2.x and
kling-v1.x (their fields on this host are not known well enough to promise a resolution).
"""

from __future__ import annotations

from typing import Final

from providers.spec import AdapterInfo
from providers.v3_async import V3Async, V3Offering, kling_v30

_PAGES: Final = "https://docs.jiekou.ai/en/docs/models/reference-"

OFFERINGS: Final[tuple[V3Offering, ...]] = (
    kling_v30(_PAGES, "kling-v3.0-std-t2v", "text-to-video", "720p", shots=False, on=True),
    kling_v30(_PAGES, "kling-v3.0-pro-t2v", "text-to-video", "1080p", shots=True),
    kling_v30(_PAGES, "kling-v3.0-4k-t2v", "text-to-video", "4k", shots=True, on=True),
    kling_v30(_PAGES, "kling-v3.0-std-i2v", "image-to-video", "720p", shots=True, on=True),
    kling_v30(_PAGES, "kling-v3.0-pro-i2v", "image-to-video", "1080p", shots=True),
    kling_v30(_PAGES, "kling-v3.0-4k-i2v", "image-to-video", "4k", shots=True),
)

INFO: Final = AdapterInfo(
    name="highwayapi",
    title="highwayapi (Jiekou.AI)",
    docs=(f"{_PAGES}kling-v3.0-std-t2v", f"{_PAGES}kling-v3.0-4k-t2v", f"{_PAGES}kling-v3.0-std-i2v"),
    base_url="https://api.highwayapi.ai",
    offerings=OFFERINGS,
    build=V3Async,
)
