"""Stored videos while the volume that holds them is not mounted: asked for later, never told to be gone.

Not held here: the folder itself (`tests/storage/test_files_away.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.app import _say_if_files_fail
from tests.api.test_content_stored import DATA, ODD, files_of, send, stored
from tests.serving import OddVendor, Served, odd_vendor, problem, serving


@pytest.fixture(scope="module")
def odd() -> Iterator[OddVendor]:
    with odd_vendor() as vendor:
        vendor.send_file = lambda handler: send(handler, DATA)
        yield vendor


@contextmanager
def served(folder: Path, odd: OddVendor) -> Iterator[Served]:
    with serving(folder, more=ODD.format(url=odd.url), files='url = "file:videos"') as started:
        yield started


@contextmanager
def unmounted(folder: Path) -> Iterator[None]:
    """While the mount point is empty."""
    videos, away = folder / "videos", folder / "away"
    videos.rename(away)
    videos.mkdir()
    yield
    videos.rmdir()  # nothing is in it, which the next mount would hide
    away.rename(videos)


def removals(served: Served) -> int:
    return len(served.run(served.gateway.store.files.removals, served.gateway.now() + 10**9, 100))


def test_stored_videos_are_asked_for_later_while_their_volume_is_away(tmp_path: Path, odd: OddVendor) -> None:
    with served(tmp_path, odd) as before:
        kept, deleted = stored(before), stored(before)
    with served(tmp_path, odd) as gateway:
        with unmounted(tmp_path):
            told = problem(gateway.client.get(kept["output"]["url"]), 503, "overloaded")
            assert (told["retryable"], told["charged"]) == (True, "yes")
            assert gateway.client.delete(f"/v1/videos/{deleted['id']}").status_code == 200
            assert removals(gateway) == 1, "its file is still to be removed"
            late = stored(gateway, stage="storing")
            gateway.run(_say_if_files_fail, gateway.gateway)
            assert "is its volume mounted" in next(
                line["error"] for line in gateway.lines if line["event"] == "files_cannot_be_stored"
            )
        gateway.until(late["id"], lambda video: video["stage"] == "stored")
        for shown in (kept, late):
            answer = gateway.client.get(f"/v1/videos/{shown['id']}/content")
            assert (answer.status_code, answer.content) == (200, DATA)
        assert len(files_of(gateway)) == 3, "of the deleted one it goes with a later sweep"
