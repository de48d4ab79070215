"""The section `[store]`: which databases there are, and what is for one of them only.

Not held here: the forms of paths and URLs, secrets, and what holds for every section (`test_settings.py`).
"""

from __future__ import annotations

import pytest

from tests.test_settings import CANARY, ENVIRON, ONE, parse, problems

POSTGRES = f'{ONE}[store]\nurl = {{ env = "DSN" }}\n'


def test_postgresql_is_taken_with_its_cache() -> None:
    store = parse(POSTGRES).store
    assert (store.url.driver, store.url.path, store.statement_cache_size) == ("postgresql", None, 100)
    assert store.url.dsn is not None
    assert store.url.dsn.reveal() == ENVIRON["DSN"]
    plain = parse(f'{ONE}[store]\nurl = "postgresql://reel@db/reel"\nstatement_cache_size = 0').store
    assert plain.url.dsn is not None
    assert (plain.url.dsn.reveal(), plain.statement_cache_size) == ("postgresql://reel@db/reel", 0)
    assert parse(f"{POSTGRES}statement_cache_size = 10_000").store.statement_cache_size == 10_000


@pytest.mark.parametrize(
    ("size", "part"),
    [("-1", ">= 0"), ("10_001", "<= 10000"), ('"0"', "expected `int`"), ("true", "expected `int`"),
     ("1.0", "expected `int`")],
)
def test_a_cache_has_a_size(size: str, part: str) -> None:
    found = problems(f"{POSTGRES}statement_cache_size = {size}")
    assert list(found) == ["store.statement_cache_size"]
    assert part in found["store.statement_cache_size"]


@pytest.mark.parametrize("url", ["", 'url = "sqlite:x.db"\n'])
def test_sqlite_has_no_such_cache(url: str) -> None:
    text = f"{ONE}[store]\n{url}statement_cache_size = 0"
    assert problems(text) == {"store.statement_cache_size": "is for postgresql:// only"}


@pytest.mark.parametrize("special", "/?#@")
def test_a_password_whose_end_cannot_be_seen_is_refused(special: str) -> None:
    found = problems(f'{ONE}[store]\nurl = "postgresql://u:{CANARY}{special}x@db/reel"')
    assert list(found) == ["store.url"]
    assert "escaped" in found["store.url"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"postgresql://u:{CANARY}%2F@db:1/reel?sslmode=require", "postgresql://db:1/reel"),
        (f"postgresql://u:{CANARY}@one:1,two:2/reel", "postgresql://one:1,two:2/reel"),
        ("postgresql:///reel?host=/run/postgresql", "postgresql:///reel"),
        (f"postgresql://u:{CANARY}@[::1]:5432/reel", "postgresql://[::1]:5432/reel"),
        (f"postgresql://u:{CANARY}@%2Frun%2Fpg:5432/reel", "postgresql://%2Frun%2Fpg:5432/reel"),
    ],
)
def test_where_it_is_can_be_shown(url: str, shown: str) -> None:
    assert parse(f'{ONE}[store]\nurl = "{url}"').store.url.shown == shown


def test_what_is_wrong_with_the_url_is_all_that_is_said() -> None:
    text = f'{ONE}[store]\nurl = "mysql://u:{CANARY}@db"\nstatement_cache_size = 0'
    assert list(problems(text)) == ["store.url"]


@pytest.mark.parametrize("host", ["db:port", "db:99999", "::1:5432", "one:1,two:b"])
def test_a_port_that_is_none_is_refused_before_anything_is_asked_there(host: str) -> None:
    found = problems(f'{ONE}[store]\nurl = "postgresql://u:{CANARY}@{host}/reel"')
    assert list(found) == ["store.url"]
    assert "port" in found["store.url"]


@pytest.mark.parametrize("user", ["u:[{}]x", "u:]{}", "u:{}\u2100", "[::{}"])
def test_a_url_that_is_none_is_refused_without_its_password(user: str) -> None:
    found = problems(f'{ONE}[store]\nurl = "postgresql://{user.format(CANARY)}@db.example/x"')
    assert list(found) == ["store.url"]
    assert "no URL" in found["store.url"]
