"""Every route, once: the role and scope that it needs, whose its object is, and how its owner is answered.

A new route fails `test_matrix.py` and `tests/api/test_auth.py` until it is entered here. No test is here.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, TypeAlias

from gateway.core.keys import Role, Scope

# What the id in a path names. `provider` and `key` belong to nobody: who has the role acts on each of them,
# and so on `any video`.
Thing: TypeAlias = Literal["video", "file", "endpoint", "any video", "provider", "key"]
Json: TypeAlias = dict[str, object]


class Row(NamedTuple):
    """A route. `good` is the status for who may, with `body`; `query` is what it is asked with.

    `role` None: public. `tells` True: it shows what all callers have, for who has the role.
    """

    role: Role | None
    scope: Scope | None = None
    good: int = 200
    thing: Thing | None = None
    body: Json | None = None
    query: str = ""
    tells: bool = False


_READ: Final = Row("viewer", "videos:read")
_VIDEO: Final = Row("viewer", "videos:read", thing="video")
_WRITE: Final = Row("caller", "videos:write", thing="video")
_FILE: Final = Row("viewer", "files", thing="file")
_HOOK: Final = Row("caller", "webhooks", thing="endpoint")
_PROVIDER: Final = Row("operator", "providers", thing="provider")
_KEY: Final = Row("admin", "keys", thing="key")
_PUBLIC: Final = Row(None)
_PROMPT: Final[Json] = {"prompt": "a fox", "provider": "highway"}

ROWS: Final[dict[tuple[str, str], Row]] = {
    ("POST", "/v1/videos"): Row("caller", "videos:write", 202, body=_PROMPT),
    ("POST", "/v1/videos/plan"): Row("caller", "videos:write", body=_PROMPT),
    ("GET", "/v1/videos"): _READ,
    ("GET", "/v1/videos/{video_id}"): _VIDEO,
    ("GET", "/v1/videos/{video_id}/timeline"): _VIDEO,
    ("GET", "/v1/videos/{video_id}/events"): _VIDEO,
    ("GET", "/v1/events"): _READ._replace(good=400, query="?last_event_id=0"),  # else it would never end
    ("GET", "/v1/videos/{video_id}/content"): _VIDEO,
    ("HEAD", "/v1/videos/{video_id}/content"): _VIDEO,
    ("POST", "/v1/videos/{video_id}/cancel"): _WRITE._replace(good=409),  # it is completed
    ("POST", "/v1/videos/{video_id}/rerun"): _WRITE._replace(good=202),
    ("POST", "/v1/videos/{video_id}/links"): _WRITE._replace(body={"expires_in": 60}),
    ("POST", "/v1/videos/{video_id}/resolve"): Row(
        "operator", "videos:resolve", 409, "any video", {"action": "fail"}
    ),
    ("DELETE", "/v1/videos/{video_id}"): _WRITE,
    ("POST", "/v1/files"): Row("caller", "files", 400),  # nothing is sent
    ("GET", "/v1/files/{file_id}"): _FILE,
    ("GET", "/v1/files/{file_id}/content"): _FILE,
    ("HEAD", "/v1/files/{file_id}/content"): _FILE,
    ("DELETE", "/v1/files/{file_id}"): _FILE._replace(role="caller"),
    ("POST", "/v1/callbacks/{provider}/{token}"): _PUBLIC._replace(good=404),  # there is no such token
    ("POST", "/v1/webhook_endpoints"): Row("caller", "webhooks", 400),  # nothing is sent
    ("GET", "/v1/webhook_endpoints"): Row("caller", "webhooks"),
    ("GET", "/v1/webhook_endpoints/{endpoint_id}"): _HOOK,
    ("DELETE", "/v1/webhook_endpoints/{endpoint_id}"): _HOOK,
    ("POST", "/v1/webhook_endpoints/{endpoint_id}/rotate"): _HOOK,
    ("POST", "/v1/webhook_endpoints/{endpoint_id}/test"): _HOOK._replace(good=202),
    ("POST", "/v1/webhook_endpoints/{endpoint_id}/replay"): _HOOK._replace(good=202, body={"since": 0}),
    ("GET", "/v1/webhook_endpoints/{endpoint_id}/deliveries"): _HOOK,
    ("GET", "/v1/models"): _READ,
    ("GET", "/v1/models/{model}"): _READ,
    ("GET", "/v1/providers"): Row("operator", "providers"),
    ("POST", "/v1/providers/{name}/pause"): _PROVIDER,
    ("POST", "/v1/providers/{name}/drain"): _PROVIDER,
    ("POST", "/v1/providers/{name}/resume"): _PROVIDER,
    ("POST", "/v1/keys"): Row("admin", "keys", 201, body={"name": "made"}),
    ("GET", "/v1/keys"): Row("admin", "keys", tells=True),
    ("GET", "/v1/keys/{key_id}"): _KEY,
    ("DELETE", "/v1/keys/{key_id}"): _KEY,
    ("POST", "/v1/keys/{key_id}/rotate"): _KEY,
    ("GET", "/v1/audit"): Row("operator", "audit", tells=True),
    ("GET", "/v1/usage"): Row("viewer", "usage:read"),
    ("GET", "/v1/spending"): Row("operator", "spending"),
    ("POST", "/v1/spending/stop"): Row("operator", "spending"),
    ("POST", "/v1/spending/start"): Row("operator", "spending"),
    ("GET", "/v1/version"): _PUBLIC,
    ("GET", "/livez"): _PUBLIC,
    ("GET", "/readyz"): _PUBLIC,
    ("GET", "/metrics"): _PUBLIC,
    ("HEAD", "/livez"): _PUBLIC,
    ("HEAD", "/readyz"): _PUBLIC,
    ("HEAD", "/metrics"): _PUBLIC,
    ("GET", "/openapi.json"): _PUBLIC,
    ("GET", "/docs"): _PUBLIC,
}
# Not part of the OpenAPI document: what it is told in, and its page.
UNDOCUMENTED: Final = frozenset({("GET", "/openapi.json"), ("GET", "/docs")})

# Ids of others where a path has none: in a query or a body. A name in braces stands for the id; what is
# behind a `#` tells two cases apart.
ASIDE: Final[dict[tuple[str, str], Row]] = {
    ("GET", "/v1/videos?after={video_id}"): _READ,
    ("GET", "/v1/videos?after={video_id}&limit=1&order=asc"): _READ,
    ("POST", "/v1/videos#image"): Row(
        "caller", "videos:write", 202, body=_PROMPT | {"image": "{file_id}", "model": "kling-v3"}
    ),
    ("POST", "/v1/videos/plan#image"): Row(
        "caller", "videos:write", 200, body=_PROMPT | {"image": "/v1/files/{file_id}/content"}
    ),
    ("POST", "/v1/videos/plan#reference"): Row(
        "caller", "videos:write", 200, body=_PROMPT | {"input_reference": {"file_id": "{file_id}"}}
    ),
    ("POST", "/v1/webhook_endpoints/{endpoint_id}/replay#id"): Row(
        "caller", "webhooks", 202, body={"id": "{message_id}"}
    ),
    ("GET", "/v1/webhook_endpoints/{endpoint_id}/deliveries?after={message_id}"): Row("caller", "webhooks"),
}
