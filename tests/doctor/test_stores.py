"""What the doctor finds in a database: SQLite and a real PostgreSQL, each made ill in one place.

Not held here: the file that SQLite uses (`test_places`), broken rows (`reelgate db check`).
"""

from __future__ import annotations

import re
import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

import asyncpg
import msgspec
import pytest

from gateway.core.facts import Candidate
from gateway.core.grants import Grant
from gateway.core.states import Task
from gateway.doctor.rules import RULES
from gateway.storage.db import Step, migrations
from gateway.storage.postgres import PostgresDatabase
from gateway.storage.rows import KeyRow
from gateway.storage.sqlite import SqliteDatabase
from gateway.storage.stop import Stopped
from gateway.storage.store import Store
from tests import postgres
from tests.core.made import FILE, ONE, make_task
from tests.doctor.conftest import ADMIN
from tests.doctor.patient import Patient
from tests.storage.stores import add, ended

pytestmark = pytest.mark.anyio

Work: TypeAlias = Callable[[SqliteDatabase], Awaitable[object]]
NOW: Final = time.time()
NEWEST: Final = len(migrations())


def run(*steps: str) -> Work:
    """Statements, in one write."""
    return lambda database: database.write([Step(sql, ()) for sql in steps])


def key(**changed: object) -> Work:
    """Another key in place of the one there is."""
    row = msgspec.structs.replace(ADMIN, id="key_2", digest="d", **changed)

    async def put(database: SqliteDatabase) -> None:
        await database.write([Step("delete from key_digests", ()), Step("delete from keys", ())])
        await Store(database).keys.add(row)

    return put


def videos(*made: Task) -> Work:
    return lambda database: add(Store(database), *made)


def beside(row: KeyRow) -> Work:
    return lambda database: Store(database).keys.add(row)


HERE: Final = Candidate("highway", "kling-v3.0-std-t2v")
_OTHER: Final = msgspec.structs.replace(ADMIN, id="key_3", name="bob", role="caller", digest="e")
_ILL: Final[list[tuple[list[str], Work]]] = [
    (["no-key"], run("delete from key_digests", "delete from keys")),
    (["no-key"], key(expires_at=NOW - 60)),
    (["no-key"], run(f"update keys set revoked_at = {NOW}")),  # noqa: S608 - a number
    (["no-admin-key"], key(role="caller")),
    (["key-ends-soon"], key(expires_at=NOW + 86_400)),
    (["key-of-unknown-team"], beside(msgspec.structs.replace(_OTHER, team="gone"))),
    (["key-for-nothing"], beside(msgspec.structs.replace(_OTHER, grant=Grant(providers=("gone",))))),
    (["key-for-nothing"], beside(msgspec.structs.replace(_OTHER, grant=Grant(models=("sora-2",))))),
    (["spending-stopped"], lambda database: Store(database).stop.put(Stopped("olga", NOW))),
    (["provider-gone"], videos(make_task(state="rendering", provider="gone", vendor_task_id="v"))),
    (["provider-gone"], videos(make_task(state="submission_unknown", provider="gone"))),
    (["provider-gone"], videos(make_task(candidates=(ONE, HERE), ruled_out=(HERE,)))),
    ([], videos(make_task(candidates=(ONE, HERE)))),
    ([], videos(make_task(state="rendering", provider="highway", vendor_task_id="v"))),
    ([], videos(ended("over", provider="gone"))),
    (["files-away"], videos(ended("kept", file=FILE, file_key="60/kept.mp4", file_until=NOW + 60))),
    (["schema-newer"], run("insert into schema_version (number, name, runs_from) values (999, 'x', 999)")),
    (["schema-behind"], run(f"delete from schema_version where number = {NEWEST}")),  # noqa: S608
    ([], run("insert into schema_version (number, name, runs_from) values (999, 'x', 1)")),
    ([], beside(msgspec.structs.replace(_OTHER, grant=Grant(providers=("gone", "highway"))))),
]


@pytest.mark.parametrize(("rules", "work"), _ILL, ids=range(len(_ILL)))
async def test_an_illness_of_the_store(patient: Patient, rules: list[str], work: Work) -> None:
    database = SqliteDatabase(patient.folder / "reelgate.db")
    await work(database)
    await database.close()
    found = await patient.examined(is_offline=True)
    assert [finding.rule for finding in found] == rules, found


@pytest.mark.parametrize("name", [".reelgate", "60/kept.mp4"])
async def test_a_folder_of_files_that_is_there(patient: Patient, name: str) -> None:
    database = SqliteDatabase(patient.folder / "reelgate.db")
    await videos(ended("kept", file=FILE, file_key="60/kept.mp4", file_until=NOW + 60))(database)
    await database.close()
    file = patient.folder / "videos" / name
    file.parent.mkdir(parents=True)
    file.touch()
    assert await patient.examined(is_offline=True) == []


async def test_a_store_that_is_not_there_yet_is_not_made(patient: Patient) -> None:
    patient.set({"store.url": '"sqlite:new/folder/reelgate.db"'})
    found = await patient.examined(is_offline=True)
    assert [finding.rule for finding in found] == ["no-key"]
    assert not (patient.folder / "new").exists()
    patient.set({"auth.mode": '"off"'})
    assert await patient.examined(is_offline=True) == []


@pytest.mark.parametrize(("path", "content", "rules"), [
    ("reelgate.db", b"a text and no database " * 100, ["store-not-a-database"]),
    ("a-file/reelgate.db", None, ["store-unusable"]),
    ("a-folder", None, ["store-unusable"]),
])  # fmt: skip
async def test_something_else_is_there(
    patient: Patient, path: str, content: bytes | None, rules: list[str]
) -> None:
    (patient.folder / "a-file").touch()
    (patient.folder / "a-folder").mkdir()
    if content is not None:
        (patient.folder / path).write_bytes(content)
    patient.set({"store.url": f'"sqlite:{path}"'})
    found = await patient.examined(is_offline=True)
    assert [finding.rule for finding in found] == rules, found


# --- PostgreSQL ---------------------------------------------------------------------------------------------


class Made(NamedTuple):
    """A database and a user of its own, with the schema and one key in it."""

    server: postgres.Server
    name: str
    user: str

    @property
    def url(self) -> str:
        """As the gateway is told."""
        return self.server.url(self.name).replace("postgres@", f"{self.user}@")

    async def order(self, sql: str, name: str | None = None) -> None:
        """A statement of the server's administrator."""
        connection = await asyncpg.connect(self.server.url(name or self.name))
        await connection.execute(sql)
        await connection.close()


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    """One that keeps what it commits, as those that tests share do not."""
    if postgres.binaries() is None:
        pytest.skip("no PostgreSQL for tests: run `make .venv/.dev`")
    one = postgres.Server(is_durable=True)
    one.start()
    yield one
    one.close()


@pytest.fixture
async def made(server: postgres.Server, patient: Patient) -> AsyncIterator[Made]:
    """A healthy one, in the configuration."""
    word = secrets.token_hex(4)
    made = Made(server, f"d_{word}", f"u_{word}")
    await made.order(f"create role {made.user} login", "postgres")
    await made.order(f"create database {made.name} template template0", "postgres")
    await made.order(f"grant create, usage on schema public to {made.user}")
    database = PostgresDatabase(made.url)
    await database.migrate()
    await Store(database).keys.add(ADMIN)
    await database.close()
    patient.set({"store.url": f'"{made.url}"'})
    yield made
    await made.order(f"drop database {made.name} with (force)", "postgres")


# The rule, and the statement that makes it so: {0} is the database, {1} the user.
_SERVERS: Final = [
    ("database-not-durable", "alter database {0} set synchronous_commit = off"),
    ("database-few-connections", "alter role {1} connection limit 3"),
    ("database-few-connections", "alter database {0} connection limit 5"),
    ("database-full", "alter database {0} connection limit 0"),
    ("database-statement-timeout", "alter role {1} set statement_timeout = '500ms'"),
    ("database-forbids-schema", "revoke create on schema public from {1}"),
    ("database-read-only", "alter database {0} set default_transaction_read_only = on"),
    ("database-refuses-login", "alter role {1} nologin"),
    ("database-missing", "alter database {0} rename to {0}_x"),
    ("schema-newer", "insert into schema_version (number, name, runs_from) values (999, 'x', 999)"),
    ("schema-behind", f"delete from schema_version where number = {NEWEST}"),  # noqa: S608 - a number
    ("no-key", "truncate keys, key_digests cascade"),
]


async def test_a_healthy_server(patient: Patient, made: Made) -> None:
    assert await patient.examined(is_offline=True) == []


@pytest.mark.parametrize(("rule", "sql"), _SERVERS, ids=range(len(_SERVERS)))
async def test_an_illness_of_the_server(patient: Patient, made: Made, rule: str, sql: str) -> None:
    is_renamed = " rename " in sql
    await made.order(sql.format(made.name, made.user), "postgres" if is_renamed else None)
    found = await patient.examined(is_offline=True)
    if is_renamed:
        await made.order(f"alter database {made.name}_x rename to {made.name}", "postgres")
    assert [finding.rule for finding in found] == [rule], found


async def test_replicas_that_share_no_folder(patient: Patient, made: Made) -> None:
    database = PostgresDatabase(made.url)
    replicas = Store(database).replicas
    await replicas.join("one", "host-a 127.0.0.1:8080", "all", "0.1.0")
    assert await patient.examined(is_offline=True) == []
    await replicas.join("two", "host-b 127.0.0.1:8080", "all", "0.1.0")
    await database.close()
    found = await patient.examined(is_offline=True)
    assert [finding.rule for finding in found] == ["files-not-shared"], found
    patient.on(filesystem=lambda path: "nfs4" if path.name == "videos" else "ext4")
    assert await patient.examined(is_offline=True) == []


async def test_who_runs_already_takes_no_place_from_itself(patient: Patient, made: Made) -> None:
    await made.order(f"alter role {made.user} connection limit 11")
    database = PostgresDatabase(made.url)
    await database.read("select 1")
    assert await patient.examined(is_offline=True) == []
    await database.close()


async def test_the_database_has_another_time(patient: Patient, made: Made) -> None:
    patient.on(now=lambda: time.time() - 300)
    found = await patient.examined(is_offline=True)
    assert [finding.rule for finding in found] == ["clock-wrong"], found


async def test_a_database_without_utf8(patient: Patient, made: Made) -> None:
    name = f"{made.name}_ascii"
    await made.order(f"create database {name} encoding 'SQL_ASCII' template template0", "postgres")
    patient.set({"store.url": f'"{made.server.url(name)}"'})
    found = await patient.examined(is_offline=True)
    assert [finding.rule for finding in found] == ["database-unfit"], found
    await made.order(f"drop database {name}", "postgres")


async def test_a_new_database_has_no_key(patient: Patient, made: Made) -> None:
    name = f"{made.name}_new"
    await made.order(f"create database {name} template template0", "postgres")
    patient.set({"store.url": f'"{made.server.url(name)}"'})
    found = await patient.examined(is_offline=True)
    assert [finding.rule for finding in found] == ["no-key"], found
    await made.order(f"drop database {name} with (force)", "postgres")


async def test_a_standby(patient: Patient) -> None:
    standby = postgres.Server("hot_standby=on", is_durable=True)
    try:
        standby.start(is_standby=True)
        patient.set({"store.url": f'"{standby.url()}"'})
        found = await patient.examined(is_offline=True)
    finally:
        standby.close()
    assert [finding.rule for finding in found] == ["database-read-only"], found


async def test_a_server_that_is_not_there(patient: Patient) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        patient.set({"store.url": f'"postgresql://app:sesame@127.0.0.1:{probe.getsockname()[1]}/d"'})
        found = await patient.examined(is_offline=True)
    assert [finding.rule for finding in found] == ["database-unreachable"], found
    assert "sesame" not in str(found)


# --- all of it ----------------------------------------------------------------------------------------------


def test_every_rule_is_seeded_somewhere() -> None:
    """Each stands in some test of this folder as what is found: there is no rule that nobody has seen."""
    texts = [file.read_text("utf-8") for file in Path(__file__).parent.glob("test_*.py")]
    named = set(re.findall(r'"([a-z]+(?:-[a-z]+)+)"', "\n".join(texts)))
    assert sorted(RULES.keys() - named) == []
    assert len(RULES) >= 30


@pytest.mark.parametrize("rule", sorted(RULES))
def test_every_rule_says_why_and_what_to_do(rule: str) -> None:
    meaning = RULES[rule]
    assert re.fullmatch(r"[A-Z`].+\.", meaning.why), meaning
    assert len(meaning.fix) > 10
    assert re.search(r"[.)`\"]$", meaning.fix), meaning
