"""Every route of the OpenAPI document, for every kind of caller: who is let in, and what a stranger learns.

A stranger's answer for what is there is compared, byte for byte, with that for what is not. Not held here:
which route needs what (`route_table`, which a new route must be entered in).
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterator
from typing import Final, NamedTuple

import pytest

from gateway.api import auth
from gateway.api.auth import MAY
from gateway.core.keys import Role
from tests.api.bodies import png
from tests.security.route_table import ASIDE, ROWS, UNDOCUMENTED, Row
from tests.serving import RENDER_SECONDS, Served, read, serving

MORE: Final = """
[egress]
allow = ["127.0.0.0/8"]
[teams.red]
[teams.blue]
"""
RED: Final = "red"
CANARY: Final = "matrix-canary"


class Actor(NamedTuple):
    """A kind of caller; what the owner has is the team's."""

    role: Role
    team: str | None = None
    scopes: tuple[str, ...] | None = None
    is_known: bool = True


ACTORS: Final = {
    "anonymous": Actor("admin", is_known=False),
    "revoked": Actor("admin", RED, is_known=False),
    "expired": Actor("admin", RED, is_known=False),
    "other team": Actor("caller", "blue"),
    "viewer": Actor("viewer"),
    "operator": Actor("operator"),
    "admin": Actor("admin"),
    "narrowed": Actor("admin", RED, ("audit",)),
    "viewer of the team": Actor("viewer", RED),
    "same team": Actor("caller", RED),
    "owner": Actor("caller", RED),
}
# What a name in braces stands for, and what nobody has. The last four belong to no caller.
ABSENT: Final = {
    "video_id": f"video_{0:032x}", "file_id": f"file_{0:032x}", "endpoint_id": f"we_{0:024x}",
    "message_id": f"msg_{0:032x}", "name": "nobody0", "key_id": f"key_{0:024x}", "token": "0" * 32,
    "provider": "nobody0", "model": "nobody0",
}
OWNED: Final = frozenset({"video_id", "file_id", "endpoint_id", "message_id"})
_NAME: Final = re.compile(r"\{([a-z_]+)\}")
CASES: Final = sorted([*(ROWS.keys() - UNDOCUMENTED), *ASIDE])


class Answer(NamedTuple):
    """An answer without what is different at any request; the names asked with stand for their ids."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class World:
    """The gateway, its callers, and what the owner has."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.clients = {
            name: served.as_caller(
                name, actor.role, team=actor.team, scopes=actor.scopes,
                expires_at=served.gateway.now() - 1 if name == "expired" else None,
            )
            for name, actor in ACTORS.items()
        }
        self.clients["anonymous"] = served.client
        self.owner, admin = self.clients["owner"], self.clients["admin"]
        listed = read(self.clients["revoked"].get("/v1/keys?limit=100"))["data"]  # which it may, once
        (key_id,) = (one["id"] for one in listed if one["name"] == "revoked")
        assert admin.delete(f"/v1/keys/{key_id}").status_code == 200
        self.ids: set[str] = set()
        self._videos: deque[str] = deque()

    def names(self, template: str, row: Row) -> dict[str, str]:
        """Something new of the owner's for each name in a case."""
        found: dict[str, str] = {}
        for name in sorted(set(_NAME.findall(template + json.dumps(row.body or {})))):
            found[name] = self._make(name, found)
        self.ids.update(value for name, value in found.items() if name in OWNED)
        return found

    def _make(self, name: str, beside: dict[str, str]) -> str:
        if name == "video_id":
            return self._video()
        if name == "file_id":
            form = {"file": (f"{CANARY}.png", png(640, 480))}
            return str(read(self.owner.post("/v1/files", files=form))["id"])
        if name == "endpoint_id":
            for one in read(self.owner.get("/v1/webhook_endpoints"))["data"][:-6]:
                self.owner.delete(f"/v1/webhook_endpoints/{one['id']}")
            made = self.owner.post("/v1/webhook_endpoints", json={"url": f"http://127.0.0.1:9/{CANARY}"})
            return str(read(made)["id"])
        if name == "message_id":
            return str(read(self.owner.post(f"/v1/webhook_endpoints/{beside['endpoint_id']}/test"))["id"])
        if name == "key_id":
            return str(read(self.clients["admin"].post("/v1/keys", json={"name": "used up"}))["id"])
        return {"name": "unified", "provider": "unified", "token": "1" * 32, "model": "kling-v3"}[name]

    def _video(self) -> str:
        if not self._videos:  # some at once: the vendor's clock moves once for all of them
            asked = {"prompt": CANARY, "provider": "highway", "metadata": {"a": CANARY}}
            ids = [self.served.rendering(self.owner, **asked)["id"] for _ in range(12)]
            self.served.clock.now += RENDER_SECONDS
            for video_id in ids:
                self.served.until(video_id, lambda video: video["stage"] == "linked", self.owner)
            self._videos.extend(ids)
        return self._videos.popleft()

    def ask(self, actor: str, case: tuple[str, str], row: Row, names: dict[str, str]) -> Answer:
        """The answer to an actor who writes these for the names in a case."""
        method, template = case
        where, body = template.partition("#")[0] + row.query, json.dumps(row.body)
        for name, value in names.items():
            where, body = where.replace(f"{{{name}}}", value), body.replace(f"{{{name}}}", value)
        content = None if row.body is None else body
        answer = self.clients[actor].request(method, where, content=content)
        headers, shown = dict(answer.headers), answer.content
        for name, value in {"request id": headers.pop("x-request-id"), **names}.items():
            shown = shown.replace(value.encode(), f"<{name}>".encode())
        # The last depends on how much of a body had come before it was refused.
        for name in ("date", "content-length", "connection"):
            headers.pop(name, None)
        return Answer(answer.status_code, tuple(sorted(headers.items())), shown)


def due(row: Row, actor: Actor, names: dict[str, str]) -> int | None:
    """The status that an actor is due; None: that for what is absent, whatever that is."""
    if row.role is None:
        return row.good
    if not actor.is_known:
        return 401
    if row.role not in MAY[actor.role] or (actor.scopes is not None and row.scope not in actor.scopes):
        return 403
    is_theirs = actor.team == RED or row.thing == "any video" or not OWNED & names.keys()
    return row.good if is_theirs else None


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auth, "BAD_KEYS_PER_MINUTE", 1_000_000)
        with serving(tmp_path_factory.mktemp("matrix"), auth="keys", more=MORE) as served:
            yield World(served)


def test_the_table_has_every_route_of_the_document(world: World) -> None:
    document = read(world.served.client.get("/openapi.json"))
    there = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert there == set(ROWS) - UNDOCUMENTED


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_nobody_learns_anything_of_what_is_anothers(world: World, case: tuple[str, str]) -> None:
    row = ROWS[case] if case in ROWS else ASIDE[case]
    names = world.names(case[1], row)
    absent = {name: ABSENT[name] for name in names}
    for name, actor in ACTORS.items():
        status = due(row, actor, names)
        if status == row.good and case[0] not in ("GET", "HEAD") and name != "owner":
            names_here = world.names(case[1], row)  # of its own to use up; the owner's is the others' still
        else:
            names_here = names
        answer = world.ask(name, case, row, names_here)
        if status is not None:
            assert answer.status == status, (name, answer)
        if names and (status != row.good or row.role is None):
            assert answer == world.ask(name, case, row, absent), name
        if actor.team != RED and not row.tells:
            told = answer.body.decode("latin-1") + str(answer.headers)
            assert CANARY not in told, name
            assert not [known for known in world.ids if known in told], name
    if case[1] == "/v1/spending/stop":  # or nothing more could be made
        assert world.clients["admin"].post("/v1/spending/start").status_code == 200
