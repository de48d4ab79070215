"""A key that is bounded comes by no more than it has: not by a key that it makes, and not by what it is told.

Not held here: what each bound does (`tests/api/test_keys.py`), which role and scope a route needs
(`test_matrix`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import httpx
import pytest

from tests.serving import Json, Served, made_key, problem, serving

MORE: Final = """
[providers.other]
adapter = "unified"
base_url = "https://other.example"
api_key = { env = "KEY" }
offerings = ["kling-o3-text-to-video"]
[teams.red]
[teams.blue]
"""
# What the giver is bounded by; what it may give; what it may not, and by what that would be more.
GIVEN: Final[list[tuple[Json, Json, Json, str]]] = [
    ({"scopes": ["keys", "files"]}, {"scopes": ["files"]}, {"scopes": ["files", "videos:read"]}, "scopes"),
    ({"scopes": ["keys", "files"]}, {"scopes": ["keys"], "role": "admin"}, {}, "scopes"),
    ({"providers": ["highway"]}, {"providers": ["highway"]}, {"providers": ["highway", "narrow"]},
     "providers"),
    ({"providers": ["highway"]}, {"providers": ["highway"], "team": "red"}, {}, "providers"),
    ({"models": ["kling-v3"]}, {"models": ["kling-v3"]}, {}, "models"),
    ({"limits": {"max_queued": 5}}, {"limits": {"max_queued": 5}}, {"limits": {"max_queued": 6}},
     "max_queued"),
    ({"limits": {"money_per_day": "5"}}, {"limits": {"money_per_day": "5.00"}},
     {"limits": {"money_per_day": "5.01"}}, "money_per_day"),
    ({"limits": {"money_per_day": "5"}}, {"limits": {"money_per_day": "4", "max_queued": 1}},
     {"limits": {"money_per_day": "4", "currency": "JPY"}}, "currency"),
    ({"limits": {"requests_per_minute": 900}}, {"limits": {"requests_per_minute": 1}},
     {"limits": {"money_per_day": "1"}}, "requests_per_minute"),
    ({"scopes": ["keys", "videos:read"], "team": "red"}, {"scopes": ["videos:read"], "team": "red"},
     {"scopes": ["videos:read"], "team": "blue"}, "team"),
    ({"scopes": ["keys", "videos:read"], "team": "red"}, {"scopes": ["keys"], "team": "red"},
     {"scopes": ["videos:read"]}, "team"),
]  # fmt: skip


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("narrow"), auth="keys", more=MORE) as started:
        yield started


@pytest.fixture(scope="module")
def admin(served: Served) -> httpx.Client:
    return served.as_caller("admin", "admin")


@pytest.mark.parametrize(("bound", "may", "may_not", "by"), GIVEN)
def test_a_bounded_key_gives_none_that_is_less_so(
    served: Served, admin: httpx.Client, bound: Json, may: Json, may_not: Json, by: str
) -> None:
    giver = served.with_key(made_key(admin, role="admin", **bound))
    given, stronger = made_key(giver, **may), made_key(admin, **may_not)
    assert giver.post(f"/v1/keys/{given['id']}/rotate").status_code == 200
    for answer in (
        giver.post("/v1/keys", json={"name": "a"} | may_not),
        giver.post(f"/v1/keys/{stronger['id']}/rotate"),
    ):
        assert by in problem(answer, 403, "permission_denied")["detail"].partition("by: ")[2]
    assert served.with_key(stronger).get("/v1/version").status_code == 200


def test_an_admin_whom_nothing_bounds_gives_what_there_is(served: Served, admin: httpx.Client) -> None:
    of_red = served.with_key(made_key(admin, role="admin", team="red", expires_in=60))
    assert made_key(of_red, role="admin", team="blue")["expires_at"] is None


@pytest.mark.parametrize("path", ["/v1/videos", "/v1/videos/plan"])
@pytest.mark.parametrize(
    ("bound", "body", "words"),
    [
        ({"providers": ["unified"]}, {"provider": "highwy"},
         "There is no provider `highwy`. Enabled here: unified."),
        ({"providers": ["unified"]}, {"provider": "unifid"},
         "There is no provider `unifid`. Did you mean `unified`? Enabled here: unified."),
        ({"models": ["kling-o3"]}, {"model": "kling-v4"},
         "The model `kling-v4` is unknown. Did you mean `kling-o3`? Served here: kling-o3."),
        ({"models": ["kling-v3"]}, {"model": "veo"}, "The model `veo` is unknown. Served here: kling-v3."),
    ],
)
def test_a_mistaken_name_is_answered_with_what_this_key_may_use(
    served: Served, admin: httpx.Client, path: str, bound: Json, body: Json, words: str
) -> None:
    key = served.with_key(made_key(admin, **bound))
    answer = problem(key.post(path, json={"prompt": "a"} | body), 400, "invalid_request")
    assert [error["detail"] for error in answer["errors"]] == [words]
