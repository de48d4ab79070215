"""The section `[store]`: which databases there are, what is for one of them only, and reading it alone.

Not held here: the forms of paths and URLs, secrets, and what holds for every section (`test_settings.py`).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway import settings
from gateway.settings import SettingsError
from tests.test_settings import ADAPTERS, CANARY, ENVIRON, ONE, parse, problems

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


BROKEN = """
default_modell = "kling-v3"
[webhooks]
secrets = [{ env = "NOT_THERE" }]
[providers.a]
adapter = "alpha"
api_key = { file = "not-there" }
max_inflight = 3
[providers.b]
adapter = "alhpa"
offerings = ["old-v1"]
[providers.c]
adapter = "alpha"
offerings = ["old-v2"]
[teams]
red = { max_queued = -1 }
blue = 3
"""


def file_of(folder: Path, text: str) -> Path:
    file = folder / "reel.toml"
    file.write_text(text, "utf-8")
    return file


@pytest.mark.parametrize("store", ['[store]\nurl = { env = "DSN" }\n', '[store]\nurl = "sqlite:x.db"\n', ""])
def test_of_a_file_with_mistakes_elsewhere_the_store_can_be_had(tmp_path: Path, store: str) -> None:
    """The gateway runs on by what it read before; the others of its file's secrets are not looked at."""
    file = file_of(tmp_path, BROKEN + store)
    found = settings.store_settings(file, ENVIRON)
    assert found.store == settings.load(file_of(tmp_path, ONE + store), ADAPTERS, ENVIRON).store
    assert (found.providers, found.webhooks.secrets) == ({}, ())


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('[store]\nurl = "mysql://h"', "store.url: expected sqlite:PATH"),
        ('[store]\nurl = { env = "NOT_THERE" }', "store.url: environment variable NOT_THERE is not set"),
        ('[store]\nulr = "sqlite:x.db"', 'store.ulr: unknown key "ulr"; did you mean "url"'),
        ('[stroe]\nurl = "sqlite:x.db"', 'stroe: unknown key "stroe"; did you mean "store"'),
        ("[store]\nstatement_cache_size = 1", "is for postgresql:// only"),
        ("store = 1", "expected a table"), ("[store", "not TOML"),
    ],
)
def test_a_store_that_cannot_be_read_is_not_the_default_one(tmp_path: Path, text: str, part: str) -> None:
    with pytest.raises(SettingsError, match=r"reel\.toml cannot be used") as caught:
        settings.store_settings(file_of(tmp_path, text), ENVIRON)
    assert part in str(caught.value)
    assert len(caught.value.problems) == 1


def test_what_a_key_may_name_is_read_as_far_as_it_can_be(tmp_path: Path) -> None:
    found = settings.nameable(file_of(tmp_path, BROKEN), ADAPTERS)
    offered = {name: [one.slug for one in provider.offerings] for name, provider in found.providers.items()}
    assert offered == {"a": ["std-v1.0", "pro-v1.0"], "b": [], "c": []}
    assert list(found.teams) == ["red"]
    nothing = settings.nameable(file_of(tmp_path, "providers = 1\nteams = 2"), ADAPTERS)
    assert (nothing.providers, nothing.teams) == ({}, {})
    with pytest.raises(SettingsError, match="not TOML"):
        settings.nameable(file_of(tmp_path, "["), ADAPTERS)
