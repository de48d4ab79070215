"""What the doctor finds about files, disks, ports, the process and the bucket: real ones where possible.

Not held here: the database's inside (`test_stores`).
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeAlias

import httpx
import pytest
import trustme
from moto.server import ThreadedMotoServer

from gateway.doctor import places
from gateway.doctor.examination import examine
from gateway.doctor.machine import Machine, Room, is_open_to_others
from gateway.errors import CannotListen
from gateway.values import Address
from tests.doctor.patient import Patient, http, odd_vendor, somebody_else

pytestmark = pytest.mark.anyio

Harm: TypeAlias = Callable[[Patient], None]


@pytest.fixture
def exposed(patient: Patient) -> Iterator[Patient]:
    """One whose folder every user of this machine can enter, which pytest's own is not."""
    folder = Path(tempfile.mkdtemp(prefix="reelgate-doctor-"))
    folder.chmod(0o755)
    shutil.copy2(patient.folder / "reelgate.db", folder)
    patient.folder = folder
    yield patient
    shutil.rmtree(folder)


def key_file(patient: Patient, mode: int = 0o644) -> None:
    file = patient.folder / "key"
    file.write_text(patient.environ["KEY"] + "\n", "utf-8")
    file.chmod(mode)
    patient.set({"providers.highway.api_key": '{ file = "key" }'})


def password_in_file(patient: Patient) -> None:
    patient.set({"store.url": '"postgresql://app:sesame@127.0.0.1:1/d"'})


def open_store(patient: Patient) -> None:
    (patient.folder / "reelgate.db").chmod(0o644)


def closed_key_file(patient: Patient) -> None:
    key_file(patient, 0o600)


def key_file_in_closed_folder(patient: Patient) -> None:
    key_file(patient)
    patient.folder.chmod(0o750)


def mounted_key_file(patient: Patient) -> None:
    key_file(patient)
    patient.on(filesystem=lambda path: "tmpfs" if path.name == "key" else "ext4")


@pytest.mark.parametrize(("rules", "harm"), [
    ({"secret-file-open"}, key_file),
    ({"config-open-with-password", "database-unreachable"}, password_in_file),
    ({"store-file-open"}, open_store),
    (set(), closed_key_file), (set(), key_file_in_closed_folder), (set(), mounted_key_file),
], ids=range(6))  # fmt: skip
async def test_who_else_can_read_it(exposed: Patient, rules: set[str], harm: Harm) -> None:
    harm(exposed)
    assert {finding.rule for finding in await exposed.examined(is_offline=True)} == rules


@pytest.mark.parametrize("path", ["closed/reelgate.db", "closed/deeper/reelgate.db", "closed/there.db"])
async def test_a_store_in_a_folder_of_somebody_else(exposed: Patient, path: str) -> None:
    closed = exposed.folder / "closed"
    closed.mkdir()
    (closed / "there.db").write_bytes((exposed.folder / "reelgate.db").read_bytes())
    exposed.set({"store.url": f'"sqlite:{path}"', "files.url": '"off"'})
    before = {finding.rule for finding in await exposed.examined(is_offline=True)}
    with somebody_else(closed):
        found = await examine(exposed.file, exposed.machine, is_offline=True, told=exposed.said.append)
    assert "store-unusable" not in before
    assert [finding.rule for finding in found] == ["store-unusable"], found
    assert str(closed) in found[0].found


async def test_a_lock_of_somebody_else(exposed: Patient) -> None:
    """Only `serve` takes it, so that all else works: as after a copy by root and a `chown` of one file."""
    lock = exposed.folder / "reelgate.db-lock"
    lock.touch()
    exposed.folder.chmod(0o777)
    (exposed.folder / "reelgate.db").chmod(0o666)
    before = {finding.rule for finding in await exposed.examined(is_offline=True)}
    with somebody_else(lock):
        found = await examine(exposed.file, exposed.machine, is_offline=True, told=exposed.said.append)
    assert before == {"store-file-open"}
    assert [finding.rule for finding in found] == ["store-unusable", "store-file-open"], found
    assert str(lock) in found[0].found


def in_the_way(patient: Patient) -> None:
    (patient.folder / "videos").write_bytes(b"a file in the way")


def low(free: int) -> Callable[[Path], Room]:
    return lambda _path: Room(1, free, 10**12)


_ILL: Final[list[tuple[str, Harm]]] = [
    ("store-on-network", lambda patient: patient.on(filesystem=lambda path: (
        "nfs4" if path.name == "reelgate.db" else "ext4"))),
    ("store-forgets", lambda patient: patient.on(filesystem=lambda path: (
        "overlay" if path.name == "reelgate.db" else "ext4"))),
    ("store-forgets", lambda patient: patient.on(filesystem=lambda path: (
        "tmpfs" if path.name == "videos" else "ext4"))),
    ("disk-nearly-full", lambda patient: patient.on(room=low(500_000_000))),
    ("open-files-low", lambda patient: patient.on(open_files=lambda: 1_024)),
    ("runs-as-root", lambda patient: patient.on(user_id=lambda: 0)),
    ("files-unusable", in_the_way),
    ("address-not-here", lambda patient: patient.set({"server.management": '"192.0.2.1:9090"'})),
]


@pytest.mark.parametrize(("rule", "harm"), _ILL, ids=range(len(_ILL)))
async def test_an_illness_of_the_place(patient: Patient, rule: str, harm: Harm) -> None:
    harm(patient)
    found = await patient.examined(is_offline=True)
    assert [finding.rule for finding in found] == [rule], found


@pytest.mark.parametrize("key", ["server.listen", "server.management"])
async def test_a_port_that_another_program_has(patient: Patient, key: str) -> None:
    async with odd_vendor(lambda _line: http(404)) as port:
        patient.set({key: f'"127.0.0.1:{port}"'})
        found = await patient.examined(is_offline=True)
    assert [(finding.rule, finding.where) for finding in found] == [("port-taken", key)]


@pytest.mark.parametrize(("path", "body"), [
    ("/v1/version", '{"name": "reelgate", "version": "0.1.0"}'),
    ("/metrics", "# HELP reelgate_videos Videos that have not ended."),  # of `serve --role engine`
])
async def test_a_gateway_that_runs_already_is_no_illness(patient: Patient, path: str, body: str) -> None:
    async with odd_vendor(lambda line: http(200 if line.split()[1] == path else 404, body)) as port:
        patient.set({"server.listen": f'"127.0.0.1:{port}"'})
        assert await patient.examined(is_offline=True) == []
    assert "A gateway runs there already." in patient.said


async def test_a_port_for_root(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(address: Address) -> Address:
        raise CannotListen("no") from PermissionError(13, "Permission denied")

    monkeypatch.setattr(places, "free", refuse)  # this may run as root
    patient.set({"server.listen": '"127.0.0.1:81"'})
    assert [finding.rule for finding in await patient.examined(is_offline=True)] == ["port-forbidden"]


async def test_authorities_whose_time_is_over(patient: Patient) -> None:
    trustme.CA().cert_pem.write_to_path(str(patient.folder / "ca.pem"))
    patient.set({"egress.ca_file": '"ca.pem"'})
    assert await patient.examined(is_offline=True) == []
    patient.on(now=lambda: 40_000_000_000.0)
    found = await patient.examined(is_offline=True)
    assert [finding.rule for finding in found] == ["ca-file-expired"]


# --- buckets ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    httpx.put(f"http://{host}:{port}/videos")
    yield f"http://{host}:{port}"
    server.stop()


def in_bucket(patient: Patient, endpoint: str, name: str = "videos") -> None:
    patient.environ |= {"ID": "id-of-the-bucket", "SECRET": "secret-of-the-bucket"}
    patient.set({
        "files.url": f'"s3://{name}/some"', "files.endpoint": f'"{endpoint}"', "files.region": '"us-east-1"',
        "files.access_key_id": '{ env = "ID" }', "files.secret_access_key": '{ env = "SECRET" }',
    })


async def test_a_bucket_that_is_there(patient: Patient, bucket: str) -> None:
    in_bucket(patient, bucket)
    assert await patient.examined(is_offline=True) == []


async def test_a_bucket_that_is_not_there(patient: Patient, bucket: str) -> None:
    in_bucket(patient, bucket, "no-such-bucket")
    found = await patient.examined(is_offline=True)
    assert [finding.rule for finding in found] == ["bucket-missing"], found


async def test_callers_are_not_sent_to_this_machine(patient: Patient, bucket: str) -> None:
    in_bucket(patient, bucket)
    patient.set({"files.redirect": "true"})
    found = await patient.examined(is_offline=True)
    assert [finding.rule for finding in found] == ["bucket-redirect-local"]


@pytest.mark.parametrize(("status", "code"), [(403, "AccessDenied"), (403, "SignatureDoesNotMatch"),
                                              (403, "InvalidAccessKeyId"), (401, "Unauthorized")])
async def test_a_bucket_that_refuses(patient: Patient, status: int, code: str) -> None:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>"
    async with odd_vendor(lambda _line: http(status, body, "Content-Type: application/xml")) as port:
        in_bucket(patient, f"http://127.0.0.1:{port}")
        found = await patient.examined(is_offline=True)
    assert [finding.rule for finding in found] == ["bucket-refuses"], found
    assert "secret-of-the-bucket" not in str(found)


async def test_a_bucket_that_nobody_serves(patient: Patient) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        in_bucket(patient, f"http://127.0.0.1:{closed.getsockname()[1]}")
        found = await patient.examined(is_offline=True)
    assert [finding.rule for finding in found] == ["bucket-unreachable"], found


# --- the machine itself -------------------------------------------------------------------------------------


def test_this_machine_answers(tmp_path: Path) -> None:
    machine = Machine(environ=os.environ)
    new = tmp_path / "not" / "there" / "yet"
    assert machine.room(new) == machine.room(tmp_path)
    assert machine.room(tmp_path).total > machine.room(tmp_path).free >= 0
    assert machine.filesystem(new) == machine.filesystem(tmp_path)
    if Path("/proc/self/mountinfo").exists():
        assert (machine.filesystem(Path("/proc")), bool(machine.filesystem(tmp_path))) == ("proc", True)
    assert machine.open_files() > 0
    assert not is_open_to_others(new)
