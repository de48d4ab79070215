"""The values that a configuration writes as text: durations, addresses, URLs, secrets, amounts of money.

Held here: their types, and one reader each: `reader(source, raw)` takes what TOML gave and returns the value,
or raises ReadError with a message for the operator. Not held here: sections and keys (`gateway.settings`).
No message repeats a value that may hold a secret: only names of variables, paths, what was expected.
"""

from __future__ import annotations

import difflib
import hmac
import ipaddress
import json
import os
import re
import ssl
from base64 import b64decode
from collections.abc import Collection, Mapping
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Literal, NoReturn, TypeAlias
from urllib.parse import unquote, urlsplit

from msgspec import Struct

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Mark: TypeAlias = tuple[int, int, int, int]
Marks: TypeAlias = dict[Path, "Mark | None"]  # files that were read; None: that one could not be

_UNIT_SECONDS = {unit: Decimal(seconds) for unit, seconds in (
    ("ms", "0.001"), ("s", "1"), ("m", "60"), ("h", "3600"), ("d", "86400"),
)}
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,12})?)(ms|s|m|h|d)")
_ADDRESS = re.compile(r"(?:\[(?P<literal>[^\]]+)\]|(?P<host>[^:\[\]]+)):(?P<port>[0-9]{1,5})")
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"(?!.{{254}}){_LABEL}(?:\.{_LABEL})*")
_AMOUNT = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PRINTABLE = re.compile(r"[!-~]+")
_SECRET_MAX_BYTES = 65_536


class ReadError(ValueError):
    """A value that is not what its key asks for; the message is for the operator."""


class Source:
    """What values stand on: `folder`, from which relative paths go, and the environment's variables.

    `marks` takes each file of a secret, as it was when it was read.
    """

    def __init__(self, folder: Path, environ: Mapping[str, str], marks: Marks | None = None) -> None:
        self.folder = folder
        self.environ = environ
        self.marks: Marks = {} if marks is None else marks


class Secret:
    """A text that shows itself only to `reveal()`: not in repr, str, JSON or a pickle."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself; to be called where it leaves the process and nowhere else."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(_bytes(self), _bytes(other))

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> NoReturn:
        message = "a Secret is not pickled"
        raise TypeError(message)


def _bytes(held: Secret) -> bytes:
    """A variable that is not UTF-8 arrives with surrogates, which plain UTF-8 would refuse."""
    return held.reveal().encode("utf-8", "surrogatepass")


class Address(Struct, frozen=True):
    """Where to listen: `host` without brackets, `port` 0..65535 (0: any free one)."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it; see `is_loopback_host`."""
        return is_loopback_host(self.host)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class StoreUrl(Struct, frozen=True, kw_only=True):
    """Where tasks are kept: `sqlite:PATH` has `path` (absolute), `postgresql://...` has `dsn`."""

    driver: Literal["sqlite", "postgresql"]
    path: Path | None = None
    dsn: Secret | None = None

    @property
    def shown(self) -> str:
        """The place without user and password, for people."""
        if self.dsn is None:
            return str(self.path)
        url = urlsplit(self.dsn.reveal())
        return f"postgresql://{url.netloc.rpartition('@')[2]}{url.path}"


class FilesUrl(Struct, frozen=True, kw_only=True):
    """Where videos are kept: `file:PATH` has `path` (absolute), `s3://BUCKET/PREFIX` the other two."""

    kind: Literal["file", "s3", "off"]
    path: Path | None = None
    bucket: str = ""
    prefix: str = ""


def parse_duration(text: str) -> float:
    """Seconds in a text such as `1.5h`: a decimal number and one of ms s m h d. Raises ReadError."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ReadError('expected a duration, a number and one of ms s m h d, such as "500ms" or "1.5h"')
    return float(Decimal(found[1]) * _UNIT_SECONDS[found[2]])


class duration(Struct, frozen=True):  # noqa: N801 - a reader like the others, which knows its range
    """A reader of durations from `least` to `most`, both included, as seconds."""

    least: str
    most: str

    def __call__(self, _source: Source, raw: object) -> float:
        """The seconds."""
        if not isinstance(raw, str):
            expected = f'expected a duration in quotes, "{self.least}" to "{self.most}"'
            raise ReadError(f"{expected}, got `{_kind(raw)}`")
        seconds = parse_duration(raw)
        if not parse_duration(self.least) <= seconds <= parse_duration(self.most):
            raise ReadError(f"must be from {self.least} to {self.most}")
        return seconds


def mark_of(status: os.stat_result) -> Mark:
    """What differs once a file is written, or another has taken its place, by a link of its folder too."""
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


def day(_source: Source, raw: object) -> date:
    """A date of TOML, which has no quotes and no time."""
    if not isinstance(raw, date) or isinstance(raw, datetime):
        raise ReadError(f"expected a date such as 2026-12-01, without quotes, got `{_kind(raw)}`")
    return raw


def is_loopback_host(host: str) -> bool:
    """True for 127.0.0.0/8, ::1 and `localhost`. Any other name may be anywhere: it is not resolved."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def table(raw: object) -> dict[str, object]:
    """A table, whatever is in it."""
    if not isinstance(raw, dict):
        raise ReadError(f"expected a table, got `{_kind(raw)}`")
    return raw


def address(_source: Source, raw: object) -> Address:
    """`HOST:PORT`, an IPv6 address in brackets."""
    found = _ADDRESS.fullmatch(_text(raw))
    if found is None or int(found["port"]) > 65_535:
        raise ReadError('expected HOST:PORT, such as "127.0.0.1:8080" or "[::1]:8080"')
    if found["literal"]:
        return Address(str(ipaddress.IPv6Address(found["literal"])), int(found["port"]))
    return Address(_host(found["host"]), int(found["port"]))


def http_url(_source: Source, raw: object) -> str:
    """An http or https URL with at most a path: host in lower case, no slash at the end."""
    return _http_url(_text(raw), may_have_user=False)


def proxy_url(source: Source, raw: object) -> Secret:
    """A proxy's URL; with user and password only where it is written as a secret."""
    if not isinstance(raw, dict):
        return Secret(_http_url(_text(raw), may_have_user=False))
    url = _http_url(secret(source, raw).reveal(), may_have_user=True)
    parts = urlsplit(url)
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if ":" in user or any(ord(letter) > 0xFF for letter in user + password):
        raise ReadError("has a user with a colon, or letters beyond Latin-1: no proxy can be told them")
    return Secret(url)


def store_url(source: Source, raw: object) -> StoreUrl:
    """`sqlite:PATH` or `postgresql://...`; may be written as a secret."""
    text = secret(source, raw).reveal() if isinstance(raw, dict) else _text(raw)
    if text.startswith("postgresql://"):
        try:
            front = urlsplit(text).netloc
            user, _, hosts = front.rpartition("@")
            _ = [urlsplit(f"//{host}").port for host in hosts.split(",")]
        except ValueError:  # whose message may hold the password
            raise ReadError("is no URL: mind the port; in user and password [ ] are to be escaped") from None
        if "@" in user + text.removeprefix(f"postgresql://{front}"):  # its front part would be shown
            raise ReadError("in user and password / ? # and @ are to be escaped, as %2F %3F %23 and %40")
        return StoreUrl(driver="postgresql", dsn=Secret(text))
    if text.startswith("sqlite:"):
        return StoreUrl(driver="sqlite", path=_path(source, text.removeprefix("sqlite:")))
    raise ReadError("expected sqlite:PATH or postgresql://USER:PASSWORD@HOST/DATABASE")


def files_url(source: Source, raw: object) -> FilesUrl:
    """`file:PATH`, `s3://BUCKET/PREFIX` or `off`."""
    text = _text(raw)
    if text == "off":
        return FilesUrl(kind="off")
    if text.startswith("file:"):
        return FilesUrl(kind="file", path=_path(source, text.removeprefix("file:")))
    bucket, _, prefix = text.removeprefix("s3://").partition("/")
    if not text.startswith("s3://") or not _BUCKET.fullmatch(bucket):
        raise ReadError("expected file:PATH, s3://BUCKET/PREFIX or off")
    return FilesUrl(kind="s3", bucket=bucket, prefix=prefix.strip("/"))


def amount(_source: Source, raw: object) -> Decimal:
    """Money: an exact decimal, from 0, at most nine digits on either side of the point."""
    if not isinstance(raw, str):
        raise ReadError(f'expected an amount in quotes, "0.084", got `{_kind(raw)}`: money is never a float')
    if not _AMOUNT.fullmatch(raw):
        raise ReadError('expected an amount such as "0.084": digits and a point, nine on either side')
    return Decimal(raw)


def secret(source: Source, raw: object) -> Secret:
    """`{ env = "NAME" }`, or `{ file = "PATH" }` less one newline at its end. Missing or empty is refused."""
    if not isinstance(raw, dict) or set(raw) not in ({"env"}, {"file"}):
        raise ReadError('a secret is not written here; name its place, { env = "NAME" } or { file = "PATH" }')
    ((where, name),) = raw.items()
    if not isinstance(name, str) or not name:
        raise ReadError(f"expected the name of a {'variable' if where == 'env' else 'file'}")
    text, place = _variable(source, name) if where == "env" else _file(source, name)
    if not text:
        raise ReadError(f"{place} is empty")
    return Secret(text)


def header_secret(source: Source, raw: object) -> Secret:
    """A secret that can travel in a header: printable ASCII without spaces."""
    found = secret(source, raw)
    if not _PRINTABLE.fullmatch(found.reveal()):
        raise ReadError("holds a space, a line break or another character that cannot be in a key")
    return found


def webhook_secret(source: Source, raw: object) -> Secret:
    """A secret that signs webhooks, in the form of Standard Webhooks: `whsec_` and base64, padded or not."""
    found = secret(source, raw)
    code = found.reveal().strip().removeprefix("whsec_")
    try:
        key = b64decode(code + "=" * (-len(code) % 4), validate=True)
    except ValueError:
        key = b""
    if not key or not found.reveal().startswith("whsec_"):
        raise ReadError('expected "whsec_" and base64, such as what `openssl rand -base64 24` prints')
    return Secret(found.reveal().strip())


def network_or_host(_source: Source, raw: object) -> Network | str:
    """A network (`10.0.0.0/8`), an address, or a name in lower case (`video.internal`)."""
    text = _text(raw)
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        if "/" not in text:
            return _host(text)
    try:
        meant = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ReadError('expected a network such as "10.0.0.0/8", an address or a host name') from None
    raise ReadError(f'a network has no host bits; did you mean "{meant}"?')


def certificates(source: Source, raw: object) -> Path:
    """The path of a PEM file with at least one certificate."""
    path = _path(source, _text(raw))
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except OSError as error:  # ssl.SSLError is one
        raise ReadError(f"no certificates can be read from {path}: {error.strerror}") from None
    return path


def _kind(raw: object) -> str:
    return type(raw).__name__


def _text(raw: object) -> str:
    if not isinstance(raw, str):
        raise ReadError(f"expected `str`, got `{_kind(raw)}`")
    return raw


def _path(source: Source, text: str) -> Path:
    """Two slashes are refused as the host of a URL, and `:memory:` as a place that forgets."""
    if not text or text.startswith(":") or re.match(r"//(?!/)", text) or "\0" in text:
        raise ReadError("expected a path, relative to the configuration file or absolute")
    return source.folder.absolute() / text


def _host(text: str) -> str:
    """A name in lower case, or an address. Other digits and points are refused: readers of them differ."""
    host = text.lower()
    if re.fullmatch(r"[0-9.]+", host):
        return str(ipaddress.IPv4Address(host))
    if not _HOST.fullmatch(host):
        raise ReadError("expected a host name or an address")
    return host


def _http_url(text: str, *, may_have_user: bool) -> str:
    expected = 'expected a URL such as "https://api.example.com" or "https://api.example.com/prefix"'
    if not _PRINTABLE.fullmatch(text) or "\\" in text:
        raise ReadError(expected)
    try:
        parts = urlsplit(text)
        port, name = parts.port, parts.hostname or ""
        host = f"[{ipaddress.IPv6Address(name)}]" if ":" in name else _host(name)
    except ValueError:
        raise ReadError(expected) from None
    if parts.scheme not in ("http", "https"):
        raise ReadError(expected)
    if "?" in text or "#" in text:
        raise ReadError("must not have a query or a fragment")
    user, has_user, _ = parts.netloc.rpartition("@")
    if has_user and not may_have_user:
        raise ReadError("must not have a user or a password in it")
    if {".", ".."} & {unquote(segment) for segment in parts.path.split("/")}:
        raise ReadError("must not have . or .. in its path")
    where = host if port is None else f"{host}:{port}"
    return f"{parts.scheme}://{user}{has_user}{where}{parts.path.rstrip('/')}"


def _variable(source: Source, name: str) -> tuple[str, str]:
    """The message does not repeat what cannot be a name: it may be the secret, put in the wrong place."""
    if not _VARIABLE.fullmatch(name):
        raise ReadError("expected the name of an environment variable, not a value")
    if name not in source.environ:
        raise ReadError(f"environment variable {name} is not set")
    return source.environ[name], f"environment variable {name}"


def _file(source: Source, name: str) -> tuple[str, str]:
    path = _path(source, name)
    source.marks[path] = None
    try:
        with path.open("rb") as file:
            source.marks[path] = mark_of(os.fstat(file.fileno()))
            data = file.read(_SECRET_MAX_BYTES + 1)
    except OSError as error:
        raise ReadError(f"file {path} cannot be read: {error.strerror}") from None
    if len(data) > _SECRET_MAX_BYTES:
        raise ReadError(f"file {path} is longer than {_SECRET_MAX_BYTES} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ReadError(f"file {path} is not UTF-8 text") from None
    return text.removesuffix("\n").removesuffix("\r"), f"file {path}"


def join(path: str, key: str) -> str:
    """The path of `key` below `path`, in quotes where it is not a plain word."""
    shown = key if re.fullmatch(r"[A-Za-z0-9_-]{1,60}", key) else json.dumps(key[:60])
    return f"{path}.{shown}" if path else shown


def unknown(what: str, word: object, known: Collection[str]) -> str:
    """`unknown adapter "x"; did you mean "y"?`, or all the names there are where none is near."""
    folded = {name.lower(): name for name in sorted(known)}
    near = difflib.get_close_matches(str(word).lower(), folded, n=1)
    hint = f'did you mean "{folded[near[0]]}"?' if near else f"known: {', '.join(folded.values()) or 'none'}"
    return f"unknown {what} {json.dumps(str(word)[:60])}; {hint}"
