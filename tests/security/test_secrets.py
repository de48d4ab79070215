"""Secrets in memory and in logs: the type that hides them, where it must be used, tracebacks, and the watch.

Not held here: secrets through a whole run (`test_canaries`), how one is configured (`test_settings`).
"""

from __future__ import annotations

import ast
import copy
import pickle
import re
import sqlite3
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
import structlog

from gateway.core.webhooks import Signer
from gateway.engine.webhooks import Letter
from gateway.logs import configure_logging, logger
from gateway.settings import parse
from gateway.storage.db import StorageError
from gateway.storage.files_s3 import Bucket
from gateway.values import Secret, StoreUrl
from providers import adapters
from tests import canaries
from tests.canaries import Canary, leaks
from tests.logged import logging_to

ROOT: Final = Path(__file__).parents[2]
TEXT: Final = "canary-in-memory"
HELD: Final = Secret(TEXT)
HOLDERS: Final = (
    HELD, [HELD], {"a": HELD}, (HELD,), Signer(HELD), StoreUrl(driver="postgresql", dsn=HELD),
    Letter(id="a", url="", body="", secrets=(HELD,)), Bucket(name="a", secret_access_key=HELD),
)  # fmt: skip
SHOWN: Final[dict[str, Callable[[object], str]]] = {
    "repr": repr, "str": str, "format": lambda held: f"{held}", "wide": lambda held: f"{held!s:>40}",
    "percent": lambda held: "%s %r" % (held, held),  # noqa: UP031 - that way, too
    "dict": lambda held: str(getattr(held, "__dict__", "")), "dir": lambda held: " ".join(dir(held)),
}
# A field of this name is a secret; in a class of the product it is a `Secret`, but for these.
NAMED: Final = re.compile(
    r"(?:^|_)(?:secret|secrets|password|api_key|access_key|access_key_id|dsn|proxy|private_key)$"
)
PLAIN: Final = {
    ("gateway/api/webhooks.py", "secret"): "the answer to who makes an endpoint, which shows it once",
}


@pytest.mark.parametrize("way", SHOWN)
@pytest.mark.parametrize("holder", HOLDERS, ids=lambda holder: type(holder).__name__)
def test_a_secret_is_not_shown(holder: object, way: str) -> None:
    assert TEXT not in SHOWN[way](holder)


@pytest.mark.parametrize("holder", HOLDERS, ids=lambda holder: type(holder).__name__)
def test_a_secret_is_written_by_no_encoder(holder: object) -> None:
    writers: tuple[Callable[[object], object], ...] = (
        msgspec.json.encode, msgspec.msgpack.encode, msgspec.to_builtins, pickle.dumps, copy.deepcopy,
    )
    for write in writers:
        with pytest.raises(TypeError):
            write(holder)
    assert TEXT.encode() not in msgspec.json.encode(holder, enc_hook=repr)


def test_secrets_are_compared_by_what_they_hold() -> None:
    assert Secret("a") == Secret("a") != Secret("b")
    assert Secret("a") != "a"


def fields() -> Iterator[tuple[str, str, str]]:
    """The file, name and type of every annotated field of a class of the product."""
    for path in [*(ROOT / "gateway").rglob("*.py"), *(ROOT / "providers").rglob("*.py")]:
        name = path.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            for line in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                    yield name, line.target.id, ast.unparse(line.annotation)


def test_every_field_that_holds_a_secret_hides_it() -> None:
    named = [(path, name, kind) for path, name, kind in fields() if NAMED.search(name)]
    assert len(named) >= 8
    assert not [one for one in named if "Secret" not in one[2] and one[:2] not in PLAIN]


def test_settings_show_no_secret() -> None:
    text = """
        [store]
        url = { env = "C" }
        [egress]
        proxy = { env = "P" }
        [providers.one]
        adapter = "highwayapi"
        api_key = { env = "C" }
    """
    environ = {"C": f"postgresql://u:{TEXT}@h/x", "P": f"http://u:{TEXT}@h:1"}
    read = parse(text, ROOT, adapters(), environ)
    assert TEXT not in f"{read!r} {read.store.url.shown} {read.providers}"


# --- tracebacks ---------------------------------------------------------------------------------------------


def quoting(error: Exception) -> Any:  # noqa: ANN401 - raises
    """Raise `error` from one that quotes, among variables that hold a secret."""
    prompt, nothing = TEXT, dict[str, str]()
    try:
        nothing[prompt]
    except KeyError as quoted:
        raise error from quoted


QUOTING: Final = (
    KeyError(TEXT), ValueError(f"invalid literal {TEXT!r}"), LookupError(TEXT), msgspec.ValidationError(TEXT),
    UnicodeDecodeError("utf-8", TEXT.encode(), 0, 1, TEXT),
    ExceptionGroup(TEXT, [ValueError(TEXT), KeyError(TEXT)]),
)


def told(error: Exception, style: Any) -> str:  # noqa: ANN401 - a literal
    """The log of that error."""
    log, kept = StringIO(), structlog.get_config()
    with logging_to(log):
        configure_style(log, style)
        try:
            quoting(error)
        except type(error) as raised:
            logger().error("failed", exc_info=raised)
    structlog.configure(**kept)
    return log.getvalue()


def configure_style(log: StringIO, style: Any) -> None:  # noqa: ANN401
    """Log to it in that style, everything."""
    from contextlib import redirect_stdout  # noqa: PLC0415

    with redirect_stdout(log):
        configure_logging("debug", style)


@pytest.mark.parametrize("style", ["json", "text"])
@pytest.mark.parametrize("error", QUOTING, ids=lambda error: type(error).__name__)
def test_a_traceback_quotes_nothing(error: Exception, style: str) -> None:
    said = told(error, style)
    assert TEXT not in said
    for word in ("Traceback", type(error).__name__, "KeyError", "which led to", "in quoting"):
        assert word in said, word


@pytest.mark.parametrize(
    "error",
    [StorageError("cannot write x: disk"), RuntimeError("a plain fault"), OSError(28, "No space left"),
     sqlite3.OperationalError("no such table: x")],
)
def test_a_traceback_tells_what_cannot_quote(error: Exception) -> None:
    assert str(error) in told(error, "text")


# --- the watch ----------------------------------------------------------------------------------------------

CAUGHT: Final = {
    "a key of ours": "x rg_0123456789abcdefghijABCDEFGHIJ012345 y",
    "a secret that signs webhooks": 'secret="whsec_MfKQ9r8GKYqr"',
    "a signed link": "GET /a?expires=1&signature=abc",
    "a header with a key": "Authorization: Bearer abcdefgh", "a password in a URL": "postgresql://u:p@h/x",
    "a key of the simulators": "key sandbox-key", "the prompt of most tests": '{"prompt": "a fox"}',
    "an image": "data:image/png;base64,AAAA",
}


@pytest.mark.parametrize("shape", canaries.SHAPES)
def test_the_watch_finds_a_secret_in_a_log(shape: str) -> None:
    log = StringIO()
    with logging_to(log):
        logger().info("odd", given=CAUGHT[shape])
        logger().info("fine", given="a plain line about http://127.0.0.1:1/v1/videos")
    found = canaries.found[:]
    canaries.found.clear()
    assert [one.split(":")[0] for one in found] == [shape]


def test_a_canary_is_found_in_every_spelling() -> None:
    one = Canary("one", 'canary "of" many/words', ("db:*", "page"))
    spelt = ['canary "of" many/words', 'canary \\"of\\" many/words', "canary%20%22of%22%20many%2Fwords",
             "eGNhbmFyeSAib2YiIG1hbnkvd29yZHM="]  # fmt: skip
    for text in spelt:
        assert leaks([one], {"log": f"x {text} y"}) == ["one in log"], text
    assert leaks([one], {"db:videos.x": spelt[0], "page": spelt[0], "log": "canary of"}) == []
