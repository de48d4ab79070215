"""Signatures that let somebody in without a key: to one thing, for one purpose, until a moment.

HMAC-SHA256 over purpose, subject and expiry, with a key that all replicas share. Not held here: where that
key is kept (`gateway.storage.signing_keys`), what a purpose opens (the routes).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import urlencode

import msgspec

EXPIRES: Final = "expires"  # the two parameters of a signed URL
SIGNATURE: Final = "signature"


class Signer:
    """Signs and checks. `key` gives the secret bytes, and is asked once, at the first use."""

    def __init__(self, key: Callable[[], Awaitable[bytes]]) -> None:
        self._ask, self._key = key, b""

    async def signature(self, purpose: str, subject: str, expires_at: int) -> str:
        """The signature, in letters that need no escaping in a URL. `expires_at` in Unix seconds.

        Raises what asking for the key raises.
        """
        self._key = self._key or await self._ask()
        signed = msgspec.json.encode((purpose, subject, expires_at))
        digest = hmac.digest(self._key, signed, hashlib.sha256)
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()

    async def query(self, purpose: str, subject: str, expires_at: int) -> str:
        """What a signed URL has after its question mark."""
        signature = await self.signature(purpose, subject, expires_at)
        return urlencode({EXPIRES: expires_at, SIGNATURE: signature})

    async def is_signed(self, purpose: str, subject: str, expires: str, signature: str) -> bool:
        """Whether we gave this signature; `expires` as it came, and whether it is over is not judged."""
        if not (expires.isascii() and expires.isdigit() and len(expires) <= 12 and signature.isascii()):
            return False
        if expires != str(int(expires)):
            return False
        return hmac.compare_digest(signature, await self.signature(purpose, subject, int(expires)))
