"""Let in without a key: a request whose URL the gateway has signed for one purpose and one thing, for a time.

Not held here: the signature itself (`gateway.signing`), which routes can be opened so (their `opt` says so).
"""

from __future__ import annotations

from urllib.parse import parse_qs

from litestar.types import Scope

from gateway.api.gateway import Gateway
from gateway.errors import Problem
from gateway.signing import EXPIRES, SIGNATURE


async def is_signed(gateway: Gateway, scope: Scope, purpose: str) -> bool:
    """Whether the URL is signed for this purpose and the thing in its path; False where it brings nothing.

    Raises Problem for a signature that is not ours, or whose time is over.
    """
    query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    if SIGNATURE not in query:
        return False
    (subject,) = scope["path_params"].values()
    expires, signature = query.get(EXPIRES, [""])[0], query[SIGNATURE][0]
    if not await gateway.engine.signer.is_signed(purpose, str(subject), expires, signature):
        raise Problem("permission_denied", "This URL was not signed by this gateway, or was changed.")
    if int(expires) <= gateway.now():
        raise Problem("expired", "The time of this URL is over.")
    return True
