"""The configuration (contract section 3): one strict TOML file in, one frozen tree of Structs out.

Held here: every section and key with its default and range, and the rules between them. Not held here: the
tables of providers and the server's (`gateway.provider_settings`, `gateway.server_settings`), how a table is
read and *all* its problems collected (`gateway.reading`), single values (`gateway.values`), when to load,
which adapters exist.

What could not be read is UNSET while the rules run; no Settings with a problem leaves this module.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from difflib import get_close_matches
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from msgspec import UNSET, Meta, Struct
from msgspec.structs import replace

from gateway import values as read
from gateway.provider_settings import (
    NAME,
    NAMED,
    Count,
    Price,
    ProviderPass,
    ProviderSettings,
    check_shares,
    read_providers,
)
from gateway.reading import Pass, Problem, all_known
from gateway.server_settings import Server, check_server
from gateway.tracing_settings import Tracing, check_tracing
from gateway.values import (
    Address,
    FilesUrl,
    Marks,
    Network,
    Secret,
    StoreUrl,
    is_loopback_host,
    join,
    mark_of,
    unknown,
)
from providers.spec import AdapterInfo

__all__ = [
    "Address", "Auth", "Egress", "Files", "FilesUrl", "Log", "Price", "Problem", "ProviderSettings",
    "Routing", "Secret", "Server", "Settings", "SettingsError", "Store", "StoreUrl", "Team", "Tracing",
    "load", "nameable", "parse", "store_settings", "written",
]

STATEMENT_CACHE_SIZE: Final = 100


class SettingsError(Exception):
    """The file cannot be used. `problems` holds everything that is wrong with it."""

    def __init__(self, problems: Iterable[Problem], file: Path | None = None) -> None:
        self.problems = list(problems)
        self.file = file
        super().__init__("\n".join([f"{file or 'configuration'} cannot be used:", *map(str, self.problems)]))


class Auth(Struct, frozen=True, kw_only=True):
    """`off`: one caller `local` with every role, refused unless `server.listen` is loopback."""

    mode: Literal["keys", "off"] = "keys"


class Store(Struct, frozen=True, kw_only=True):
    """The database. `statement_cache_size`: how many statements a connection to PostgreSQL keeps ready.

    0 behind a pooler that gives every transaction another connection and does not know prepared statements
    (PgBouncer before 1.21).
    """

    url: Annotated[StoreUrl, read.store_url, "sqlite:reelgate.db"]
    statement_cache_size: Annotated[int, Meta(ge=0, le=10_000)] = STATEMENT_CACHE_SIZE


class Files(Struct, frozen=True, kw_only=True):
    """Where finished videos go, and for how long files and records are kept (10 ms to 3650 days).

    The others count for s3:// only. `redirect`: callers get a file from the bucket itself, by a signed URL.
    What is absent of the last four comes from the environment (AWS_ENDPOINT_URL, AWS_REGION, ...).
    """

    url: Annotated[FilesUrl, read.files_url, "file:videos"]
    retention: Annotated[float, read.duration("10ms", "3650d")] = 30 * 86400.0
    records_retention: Annotated[float, read.duration("10ms", "3650d")] = 90 * 86400.0
    redirect: bool = False
    endpoint: Annotated[str, read.http_url] | None = None
    region: Annotated[str, Meta(pattern="^[a-z0-9-]{1,64}$")] | None = None
    access_key_id: Annotated[Secret, read.header_secret] | None = None
    secret_access_key: Annotated[Secret, read.header_secret] | None = None


class Log(Struct, frozen=True, kw_only=True):
    """`auto`: text on a terminal, JSON elsewhere."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "text"] = "auto"


class Routing(Struct, frozen=True, kw_only=True):
    """The order of candidates, and how long a task may take (10 ms to 30 days).

    `rerun_failed`: how often (0..5) a render that its vendor failed may be bought again elsewhere, while all
    its sendings together cost at most `rerun_cost_limit` (then a candidate needs a price).
    """

    strategy: Literal["priority", "weighted", "cheapest", "fastest"] = "priority"
    deadline: Annotated[float, read.duration("10ms", "30d")] = 6 * 3600.0
    rerun_failed: Annotated[int, Meta(ge=0, le=5)] = 0
    rerun_cost_limit: Annotated[Decimal, read.amount] | None = None


class Webhooks(Struct, frozen=True, kw_only=True):
    """What signs deliveries to a request's own `webhook_url`: all of them, for a rotation."""

    secrets: tuple[Annotated[Secret, read.webhook_secret], ...] = ()


class Egress(Struct, frozen=True, kw_only=True):
    """Which private places may be reached, and the way out. `proxy` is a URL and may hold a password."""

    allow: tuple[Annotated[Network | str, read.network_or_host], ...] = ()
    proxy: Annotated[Secret, read.proxy_url] | None = None
    ca_file: Annotated[Path, read.certificates] | None = None

    @property
    def networks(self) -> tuple[Network, ...]:
        """Those of `allow` that are addresses or networks."""
        return tuple(entry for entry in self.allow if not isinstance(entry, str))

    @property
    def hosts(self) -> frozenset[str]:
        """Those of `allow` that are names, in lower case."""
        return frozenset(entry for entry in self.allow if isinstance(entry, str))

    def allows(self, host: str) -> bool:
        """Whether `host`, a literal address or a name, is listed. Names are compared, never resolved."""
        try:
            address = ip_address(host)
        except ValueError:
            return host.lower() in self.hosts
        return any(address in network for network in self.networks)


class Team(Struct, frozen=True, kw_only=True):
    """The most that all keys of a team may have together, as `gateway.core.grants.Limits`; absent: no limit.

    `providers` and `models` are what is for them; absent: all.
    """

    requests_per_minute: Count | None = None
    max_in_flight: Count | None = None
    max_queued: Count | None = None
    money_per_day: Annotated[Decimal, read.amount] | None = None
    money_per_month: Annotated[Decimal, read.amount] | None = None
    currency: Annotated[str, Meta(pattern="^[A-Z]{3}$")] = "USD"
    providers: tuple[str, ...] | None = None
    models: tuple[str, ...] | None = None


class Settings(Struct, frozen=True, kw_only=True):
    """The whole configuration. The order of `providers` is their priority."""

    default_model: Annotated[str, Meta(min_length=1)] = "kling-v3"
    server: Server
    auth: Auth
    store: Store
    files: Files
    log: Log
    routing: Routing
    webhooks: Webhooks
    egress: Egress
    providers: Annotated[dict[str, ProviderSettings], read_providers] = {}
    teams: dict[str, Team] = {}
    tracing: Tracing | None = None


def load(
    path: Path, adapters: Mapping[str, AdapterInfo], environ: Mapping[str, str], marks: Marks | None = None,
) -> Settings:
    """The settings in the file at `path`. Raises SettingsError with every problem.

    `marks` takes what was read, the file and those of its secrets, each as it was then: None where it could
    not be read.
    """
    marks = {} if marks is None else marks
    with _blamed(path):
        return parse(_text(path, marks), path.absolute().parent, adapters, environ, marks)


def store_settings(path: Path, environ: Mapping[str, str]) -> Settings:
    """The settings of which `[store]` alone is read, with its secret: all else is as if it were absent.

    For what is done beside `serve`, which runs on by the file before, and from shells that have no vendor's
    key: a mistake elsewhere keeps nobody from the store. Raises SettingsError.
    """
    with _blamed(path):
        tree = _tree(_text(path, {}))
        reading = Pass(path.absolute().parent, environ)
        meant = {"store"} & tree.keys() or {key for key in tree if _is_near(key, "store")}
        settings = reading.struct(Settings, {key: tree[key] for key in meant}, "")
        _check_store(reading, settings.store)
        if reading.problems:
            raise SettingsError(reading.problems)
    return settings


def nameable(path: Path, adapters: Mapping[str, AdapterInfo]) -> Settings:
    """The settings of which is read, as far as it can be, what a key may name; no secret is looked at.

    That is each team, and each provider with its offerings. Raises SettingsError of a file that is no TOML.
    """
    with _blamed(path):
        tree = _tree(_text(path, {}))
    accounts = {
        name: {key: table[key] for key in ("adapter", "offerings") if key in table}
        for name, table in _tables(tree.get("providers")).items()
    }
    teams: dict[str, object] = {name: {} for name in _tables(tree.get("teams"))}
    reading = ProviderPass(path.absolute().parent, adapters, {})
    settings = reading.struct(Settings, {"providers": accounts, "teams": teams}, "")
    return replace(settings, providers={
        name: one if all_known(one.offerings) else replace(one, offerings=())
        for name, one in settings.providers.items()
    })


def _is_near(key: str, section: str) -> bool:
    """Whether it is that section, misspelt: what a typo hides is not read as its default."""
    return get_close_matches(key.lower(), Settings.__struct_fields__, n=1) == [section]


def _tables(raw: object) -> dict[str, dict[str, object]]:
    named = raw if isinstance(raw, dict) else {}
    return {name: table for name, table in named.items() if isinstance(table, dict)}


@contextmanager
def _blamed(path: Path) -> Iterator[None]:
    """Says of every problem which file has it."""
    try:
        yield
    except (OSError, UnicodeDecodeError) as error:
        why = f"cannot be read: {error.strerror}" if isinstance(error, OSError) else "is not UTF-8 text"
        raise SettingsError([Problem("", why)], path) from None
    except SettingsError as error:
        raise SettingsError(error.problems, path) from None


def _text(path: Path, marks: Marks) -> str:
    marks[path] = None
    with path.open(encoding="utf-8-sig") as file:
        marks[path] = mark_of(os.fstat(file.fileno()))
        return file.read()


def written(path: Path) -> str:
    """What `load` has read there, for who tells how it is written. Raises SettingsError of a pipe."""
    if not path.is_file():
        raise SettingsError([Problem("", "cannot be read twice, as is needed: it is no regular file")], path)
    return path.read_text("utf-8-sig")


def parse(
    text: str, folder: Path, adapters: Mapping[str, AdapterInfo], environ: Mapping[str, str],
    marks: Marks | None = None,
) -> Settings:
    """The settings in `text`, relative paths from `folder`. Keeps nothing. Raises as `load`."""
    reading = ProviderPass(folder, adapters, environ, marks)
    settings = reading.struct(Settings, _tree(text), "")
    _check_sections(reading, settings)
    if reading.problems:
        raise SettingsError(reading.problems)
    return settings


def _tree(text: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        what, _, where = str(error).partition(" (at ")
        raise SettingsError([Problem(where.rstrip(")"), f"not TOML: {what}")]) from None


def _check_sections(reading: Pass, settings: Settings) -> None:
    """The rules between sections."""
    server, auth = settings.server, settings.auth
    if auth.mode == "off" and all_known(server.listen) and not server.listen.is_loopback:
        reading.wrong("auth.mode", f'"off" needs server.listen to be loopback; it is {server.listen}')
    if auth.mode == "off" and all_known(server.cors_origins) and server.cors_origins:
        reading.wrong("server.cors_origins", 'needs auth.mode = "keys": a page of elsewhere has to bring one')
    check_server(reading, server)
    check_tracing(reading, settings.tracing)
    _check_store(reading, settings.store)
    _check_files(reading, settings.files)
    if settings.providers == {}:
        reading.wrong("providers", "no provider is configured; begin with a table [providers.NAME]")
    if not all_known(settings.providers):
        return
    for name, provider in settings.providers.items():
        if all_known(provider.base_url, settings.egress.allow):
            _check_plain_http(reading, provider.base_url, settings.egress, join("providers", name))
    check_shares(reading, settings.providers.values())
    providers = settings.providers.values()
    is_read = all(all_known(provider.adapter, provider.offerings) for provider in providers)
    if is_read and all_known(settings.default_model):
        models = {offering.model for provider in providers for offering in provider.offerings}
        if models and settings.default_model not in models:
            hint = f"no offering that is on serves it: {unknown('model', settings.default_model, models)}"
            reading.wrong("default_model", hint)
        for name, team in settings.teams.items() if all_known(settings.teams) else ():
            _check_team(reading, join("teams", name), team, {"provider": settings.providers, "model": models})


def _check_team(reading: Pass, path: str, team: Team, known: Mapping[str, Collection[str]]) -> None:
    """Its name, and that every provider and model it names is there."""
    if not NAME.fullmatch(path.removeprefix("teams.")):
        reading.wrong(path, f"a team's {NAMED}")
    for what, there in known.items():
        names = getattr(team, f"{what}s", None)
        for name in names if isinstance(names, tuple) else ():
            if name not in there:
                reading.wrong(f"{path}.{what}s", unknown(what, name, there))


def _check_store(reading: Pass, store: Store) -> None:
    """What only PostgreSQL has."""
    is_sqlite = all_known(store.url) and store.url.driver == "sqlite"
    if is_sqlite and store.statement_cache_size not in (UNSET, STATEMENT_CACHE_SIZE):
        reading.wrong("store.statement_cache_size", "is for postgresql:// only")


def _check_files(reading: Pass, files: Files) -> None:
    """What only a bucket can do, and its two keys."""
    if all_known(files.url, files.redirect) and files.redirect and files.url.kind != "s3":
        reading.wrong("files.redirect", "is for s3:// only: nobody can be sent to a folder")
    keys = files.access_key_id, files.secret_access_key
    if all_known(*keys) and (keys[0] is None) != (keys[1] is None):
        reading.wrong("files.access_key_id", "and files.secret_access_key need each other")


def _check_plain_http(reading: Pass, base_url: str, egress: Egress, path: str) -> None:
    url = urlsplit(base_url)
    host = url.hostname or ""
    if url.scheme == "http" and not is_loopback_host(host) and not egress.allows(host):
        hint = f"use https, or list {host} in egress.allow"
        reading.wrong(f"{path}.base_url", f"plain http would show the key on its way: {hint}")
