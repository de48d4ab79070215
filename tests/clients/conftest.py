"""A gateway with keys, for clients that know nothing but a base URL and a key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import httpx
import pytest

from tests.serving import Served, serving


class Place(NamedTuple):
    """Where a client is pointed: base URL and key; `client` is our own with the same key."""

    served: Served
    base_url: str
    key: str
    client: httpx.Client


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with serving(tmp_path_factory.mktemp("clients"), auth="keys") as served:
        key = served.new_key("a client")
        client = served.client_with({"Authorization": f"Bearer {key}"})
        yield Place(served, f"{served.url}/v1", key, client)
