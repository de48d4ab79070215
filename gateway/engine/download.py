"""All of a vendor's file, in order: where it breaks off, it goes on from there if it is surely the same file.

Not held here: opening links and judging each hop (`collect`), what is done with the bytes (`keeping`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from gateway.engine.collect import Links, LinkUnreachable, Piece, open_link

RESUMES_MAX: Final = 8  # of one download; each must have brought something


class Download:
    """An open link, from its first byte. `total` is the length of the file in bytes."""

    def __init__(self, links: Links, url: str, first: Piece) -> None:
        self._links, self._url, self._piece = links, url, first
        self.total, self._validator = first.total, first.validator
        self._position = 0

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The bytes. Raises LinkUnreachable where it cannot go on, LinkRefused where the link has died."""
        resumes, resumed_at = 0, -1
        while True:
            try:
                async with aclosing(self._piece.part(self._position, self.total - 1)) as part:
                    async for chunk in part:
                        self._position += len(chunk)
                        yield chunk
                return
            except LinkUnreachable:
                if self._validator is None or resumes >= RESUMES_MAX or self._position == resumed_at:
                    raise
            resumes, resumed_at = resumes + 1, self._position
            self._piece = await self._rest()

    async def _rest(self) -> Piece:
        """The same file from where it broke off. Raises LinkUnreachable when it is another by now."""
        asked = f"bytes={self._position}-"
        piece = await open_link(self._links, self._url, asked, self._validator)
        is_same = piece.total == self.total and piece.validator == self._validator
        if not is_same or piece.start > self._position:
            await piece.close()
            raise LinkUnreachable("the vendor's file is another than before it broke off")
        return piece

    async def close(self) -> None:
        """Let the connection go, also one that was never read from."""
        await self._piece.close()


async def download(links: Links, url: str) -> Download:
    """Open a link from its beginning. Raises LinkRefused, LinkUnreachable."""
    piece = await open_link(links, url, None)
    return Download(links, url, piece)
