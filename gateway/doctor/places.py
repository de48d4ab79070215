"""Places of this machine and the bucket: files and folders, disks, ports, the process itself, tried out.

Not held here: the database's inside (`stores`), the way to vendors (`vendors`).
"""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from typing import Final
from urllib.parse import urlsplit

from gateway.assembly import open_files
from gateway.doctor.aside import aside
from gateway.doctor.case import Case
from gateway.doctor.machine import SHARED_FILESYSTEMS, is_open_to_others
from gateway.doctor.rules import Finding
from gateway.errors import CannotListen
from gateway.listening import free
from gateway.settings import Server
from gateway.values import Address

_FORGETS: Final = frozenset({"tmpfs", "ramfs", "overlay", "aufs"})
_IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})  # where orchestrators mount secrets, for one container only
_LEAST_FREE_BYTES: Final = 2 << 30  # a hundred videos or so, and room for the database to grow
_OPEN_FILES: Final = 4_096
_ANSWER_SECONDS: Final = 2.0
_ANSWER_BYTES: Final = 65_536
_ANYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound
# What nobody else says there; a replica that answers no callers has the second only.
_OURS: Final = (("/v1/version", b'"reelgate"'), ("/metrics", b"reelgate_"))
_LISTENING: Final = {
    errno.EADDRINUSE: "port-taken", errno.EADDRNOTAVAIL: "address-not-here", errno.EACCES: "port-forbidden",
}
# What the client of the bucket says, in the first of these rows that is in it.
_OF_BUCKET: Final = (
    ("operation lacked", "bucket-refuses"), ("NoSuchBucket", "bucket-missing"),
    ("not found", "bucket-missing"),
)


async def secrets(case: Case) -> list[Finding]:
    """Who else can read what is secret."""
    return list(_secrets(case))


def _secrets(case: Case) -> Iterator[Finding]:
    for where, path in case.secret_files():
        if case.machine.filesystem(path) not in _IN_MEMORY and is_open_to_others(path):
            yield Finding("secret-file-open", where, str(path))
    url = case.written("store", "url")
    has_password = isinstance(url, str) and url.startswith("postgresql:") and urlsplit(url).password
    if has_password and is_open_to_others(case.path):
        yield Finding("config-open-with-password", "store.url", str(case.path))


async def disks(case: Case) -> list[Finding]:
    """What the store and the files stand on."""
    return list(_disks(case))


def _disks(case: Case) -> Iterator[Finding]:
    store, files = case.settings.store.url.path, case.settings.files.url.path
    if store is not None:
        kind = case.machine.filesystem(store)
        if kind in SHARED_FILESYSTEMS:
            yield Finding("store-on-network", "store.url", f"{store} is on {kind}")
        elif kind in _FORGETS:
            yield Finding("store-forgets", "store.url", f"{store} is on {kind}")
        if is_open_to_others(store):
            yield Finding("store-file-open", "store.url", str(store))
    if files is not None and (kind := case.machine.filesystem(files)) in _FORGETS:
        yield Finding("store-forgets", "files.url", f"{files} is on {kind}")
    seen: set[int] = set()
    for where, path in (("store.url", store), ("files.url", files)):
        if path is None:
            continue
        room = case.machine.room(path)
        if room.free < _LEAST_FREE_BYTES and room.device not in seen:
            yield Finding("disk-nearly-full", where, f"{room.free / 1e9:.1f} GB are free at {path}")
        seen.add(room.device)


async def files(case: Case) -> list[Finding]:
    """Whether a finished video could be stored, by trying."""
    store = open_files(case.settings)
    if store is None:
        return []
    trouble = await store.trouble()
    await store.close()
    if trouble is None:
        return []
    if case.settings.files.url.kind == "file":
        return [Finding("files-unusable", "files.url", trouble)]
    rule = next((rule for word, rule in _OF_BUCKET if word in trouble), "bucket-unreachable")
    return [Finding(rule, "files.url", trouble)]


async def ports(case: Case) -> list[Finding]:
    """Whether the gateway could listen, or does already."""
    server = case.settings.server
    places = (("server.listen", server.listen), ("server.management", server.management))
    if _cannot_listen(server.listen) is not None and await _is_ours(case):
        case.told("A gateway runs there already.")
        return []
    return [
        Finding(_LISTENING.get(code, "port-taken"), where, str(address))
        for where, address in places
        if address is not None and (code := _cannot_listen(address)) is not None
    ]


def _cannot_listen(address: Address) -> int | None:
    """The system's error, None where it can be listened on."""
    try:
        free(address)
    except CannotListen as error:
        return error.__cause__.errno or 0 if isinstance(error.__cause__, OSError) else 0
    return None


async def _is_ours(case: Case) -> bool:
    """Whether what listens is a gateway: then the port is in the right hands."""
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            return await aside(_is_reelgate, case)
    except TimeoutError:
        return False


def _is_reelgate(case: Case) -> bool:
    """What it says to that. Blocks, as long as an answer drips."""
    return any(_says(case.settings.server, path, word) for path, word in _OURS)


def _says(server: Server, path: str, word: bytes) -> bool:
    address = Address(_ANYWHERE.get(server.listen.host, server.listen.host), server.listen.port)
    connection = HTTPConnection(address.host, address.port, timeout=_ANSWER_SECONDS)
    try:
        connection.request("GET", f"{server.base_path}{path}")
        answer = connection.getresponse()
        return answer.status == 200 and word in answer.read(_ANSWER_BYTES)
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


async def authorities(case: Case) -> list[Finding]:
    """Whether the authorities of our own are still good."""
    path = case.settings.egress.ca_file
    if path is None:
        return []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(path)
    now = case.machine.now()
    ended = [
        str(one["notAfter"]) for one in context.get_ca_certs()
        if ssl.cert_time_to_seconds(str(one["notAfter"])) < now
    ]
    return [Finding("ca-file-expired", "egress.ca_file", f"{path} ended {ended[0]}")] if ended else []


async def process(case: Case) -> list[Finding]:
    """What the process may and can."""
    found = []
    limit = case.machine.open_files()
    if 0 <= limit < _OPEN_FILES:
        found.append(Finding("open-files-low", "process", f"may have {limit} files open at once"))
    if case.machine.user_id() == 0:
        found.append(Finding("runs-as-root", "process", "is root"))
    return found

