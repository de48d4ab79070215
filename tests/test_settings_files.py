"""The section `[files]`: where finished videos go, and what only a bucket has."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.settings import Files, SettingsError, parse
from providers import adapters

PROVIDER = '[providers.one]\nadapter = "highwayapi"\napi_key = { env = "KEY" }\n'
BUCKET = 'url = "s3://videos/some"\n'
KEYS = 'access_key_id = { env = "ID" }\nsecret_access_key = { env = "SECRET" }\n'


def files(text: str) -> Files:
    environ = {"KEY": "k", "ID": "the-id", "SECRET": "canary-secret"}
    return parse(f"[files]\n{text}\n{PROVIDER}", Path("/folder"), adapters(), environ).files


def test_everything_of_a_bucket() -> None:
    found = files(
        BUCKET + KEYS + 'endpoint = "http://s3.internal:9000"\nregion = "eu-central-1"\nredirect = true'
    )
    assert (found.url.bucket, found.url.prefix, found.redirect) == ("videos", "some", True)
    assert (found.endpoint, found.region) == ("http://s3.internal:9000", "eu-central-1")
    assert found.access_key_id is not None
    assert found.secret_access_key is not None
    assert found.access_key_id.reveal() == "the-id"
    assert found.secret_access_key.reveal() == "canary-secret"
    assert "canary-secret" not in repr(found)


def test_what_is_absent_comes_from_the_environment() -> None:
    found = files(BUCKET)
    assert (found.endpoint, found.region, found.access_key_id, found.secret_access_key) == (None,) * 4
    assert found.redirect is False


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("redirect = true", "files.redirect: is for s3:// only"),
        ('url = "off"\nredirect = true', "files.redirect: is for s3:// only"),
        (BUCKET + 'access_key_id = { env = "ID" }', "need each other"),
        (BUCKET + 'secret_access_key = { env = "SECRET" }', "need each other"),
        (BUCKET + KEYS.replace('{ env = "ID" }', '"written here"'), "is not written here"),
        (BUCKET + 'endpoint = "s3.internal"', "files.endpoint: expected a URL"),
        (BUCKET + 'region = "Frankfurt am Main"', "files.region"),
        (BUCKET + 'bucket = "x"', "unknown key"),
    ],
)
def test_what_cannot_be_is_told(text: str, why: str) -> None:
    with pytest.raises(SettingsError) as caught:
        files(text)
    assert why in str(caught.value)
    assert "canary-secret" not in str(caught.value)
