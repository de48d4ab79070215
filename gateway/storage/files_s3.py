"""Files in a bucket of S3, or of a server that speaks its protocol.

An object is there whole or not at all, because a multipart upload that is broken off makes none. Parts of
one whose process was killed stay in the bucket, unseen, until a lifecycle rule of the bucket removes them.
Not held here: which files there are (`file_rows`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from datetime import timedelta
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

import msgspec
import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from gateway.storage.files import PIECE_BYTES, FileMissing, FileStoreError
from gateway.values import Secret

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config

PART_BYTES: Final = 8 * 1024 * 1024  # 10,000 parts, which is the most there may be, are 80 GiB
PARTS_AT_ONCE: Final = 2  # of one file; each is in memory
_RETRIES: Final[RetryConfig] = {"max_retries": 3, "retry_timeout": timedelta(seconds=30)}
_PROBE: Final = ".reelgate-probe"


class Bucket(msgspec.Struct, frozen=True, kw_only=True):
    """Where a bucket is. What is None is taken from the environment (AWS_ENDPOINT_URL, AWS_REGION, ...)."""

    name: str
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None
    access_key_id: Secret | None = None
    secret_access_key: Secret | None = None


class S3Files:
    """Objects under a prefix of a bucket."""

    def __init__(self, bucket: Bucket) -> None:
        self._where = f"s3://{bucket.name}/{bucket.prefix}".rstrip("/")
        self._store = _open(bucket, timeout="60s")  # of a part, or a question
        self._downloads = _open(bucket, timeout="1h")  # of a whole file, as fast as its reader

    async def put(self, key: str, chunks: AsyncIterator[bytes], content_type: str) -> None:
        """Upload in parts."""
        failures: list[Exception] = []

        async def watched() -> AsyncIterator[bytes]:
            try:
                async for chunk in chunks:
                    yield chunk
            except Exception as error:  # not GeneratorExit: the library lets go of it when a part fails
                failures.append(error)  # the library makes another error of it
                raise

        name = PurePosixPath(key).name
        attributes = {"Content-Type": content_type, "Content-Disposition": f'inline; filename="{name}"'}
        try:
            await obstore.put_async(
                self._store, key, watched(), attributes=attributes, chunk_size=PART_BYTES,
                max_concurrency=PARTS_AT_ONCE, use_multipart=True,
            )
        except Exception as error:
            if failures:
                raise failures[0] from None
            raise self._told(error) from error

    async def read(self, key: str, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """By one ranged request."""
        try:
            found = await obstore.get_async(self._downloads, key, options={"range": (start, end + 1)})
            async for piece in found.stream(min_chunk_size=PIECE_BYTES):
                yield bytes(piece)
        except FileNotFoundError as error:
            raise FileMissing("the file is not there") from error
        except (BaseError, OSError) as error:
            raise self._told(error) from error

    async def remove(self, key: str) -> None:
        """Delete the object."""
        try:
            await obstore.delete_async(self._store, key)
        except FileNotFoundError:
            return
        except (BaseError, OSError) as error:
            raise self._told(error) from error

    async def link(self, key: str, seconds: float) -> str | None:
        """A presigned URL."""
        try:
            return await obstore.sign_async(self._store, "GET", key, timedelta(seconds=seconds))
        except (BaseError, OSError) as error:
            raise self._told(error) from error

    async def trouble(self) -> str | None:
        """Try to write a small object."""
        try:
            await obstore.put_async(self._store, _PROBE, b"reelgate")
            await obstore.delete_async(self._store, _PROBE)
        except (BaseError, OSError) as error:
            return str(self._told(error))
        return None

    async def close(self) -> None:
        """Nothing is held."""

    def _told(self, error: Exception) -> FileStoreError:
        """The library's errors may quote a request; the first line names what went wrong."""
        told = (str(error).splitlines() or [type(error).__name__])[0]
        return FileStoreError(f"{self._where} cannot be used: {told[:200]}")


def _open(bucket: Bucket, *, timeout: str) -> S3Store:
    config: S3Config = {"virtual_hosted_style_request": False}
    for name, value in (
        ("endpoint", bucket.endpoint), ("region", bucket.region),
        ("access_key_id", bucket.access_key_id), ("secret_access_key", bucket.secret_access_key),
    ):
        if value is not None:
            told = value.reveal() if isinstance(value, Secret) else value
            config[name] = told  # type: ignore[literal-required]
    # Plain http only where an operator has written such an endpoint; the secret key never travels.
    client: ClientConfig = {"timeout": timeout, "connect_timeout": "10s", "allow_http": True}
    return S3Store(
        bucket.name, prefix=bucket.prefix or None, config=config, client_options=client, retry_config=_RETRIES
    )
