"""Which providers have unfinished videos, or are waited for: the same on every database."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.storage.store import Store
from gateway.storage.unfinished import homes
from tests.core.made import ONE, TWO, make_task
from tests.storage.stores import DATABASES, add, ended, opened

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("kind", DATABASES)
async def test_jobs_count_where_they_are_and_what_waits_for_all_that_may_get_it(
    tmp_path: Path, kind: str
) -> None:
    async with opened(kind, tmp_path) as database:
        assert await homes(database) == []
        await add(
            Store(database),
            make_task("a", state="rendering", provider="one"),
            make_task("b", state="submitting", provider="one"),
            make_task("c", state="submission_unknown", provider="two"),
            make_task("d", candidates=(ONE, TWO)), make_task("e", candidates=(ONE, TWO), ruled_out=(ONE,)),
            make_task("f", candidates=(ONE, TWO), provider="one"), ended("over", provider="two"),
        )
        assert sorted(await homes(database)) == [
            (("one",), 2), (("one", "two"), 2), (("two",), 1), (("two",), 1),
        ]
