"""A vendor's id is all that a poll needs: what `ref_of` makes of it is what an acceptance would have made.

Held here: the optional protocol `MakesRefs`, which all adapters of the register have. Not held here: answers
(`tests/contract`), who hands in an id (`tests/api`, `tests/engine`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from urllib.parse import unquote

import pytest

from gateway.engine.provider import NO_JOB
from providers import adapters
from providers.spec import MakesRefs, Reply, VendorError, usable_task_id
from tests.contract.recorded import Subject, filled, load

pytestmark = pytest.mark.anyio

IDS = ("c0ffee00-1234-4abc-8def", "a:b=c+d@e~f", "7" * 256, NO_JOB)
SUBJECTS = [load(info) for info in adapters().values()]
each_adapter = pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.info.name)


class Door:
    """Accepts with the id that a test gives, and knows no job. `asked` are the questions: path and query."""

    def __init__(self, subject: Subject, task_id: str) -> None:
        self._created = json.dumps(filled(subject.answers.created[0], ID=task_id)).encode()
        self.asked: list[tuple[str, dict[str, str]]] = []

    async def submit(self, path: str, body: Mapping[str, object]) -> Reply:
        """An acceptance."""
        return Reply(200, self._created)

    async def ask(self, path: str, query: Mapping[str, str] | None = None) -> Reply:
        """No such job."""
        self.asked.append((unquote(path), dict(query or {})))
        return Reply(404, b'{"message": "no such task"}')

    def redact(self, text: str) -> str:
        """As it is."""
        return text


@each_adapter
@pytest.mark.parametrize("task_id", IDS)
async def test_a_reference_made_of_an_id_is_that_of_its_acceptance(subject: Subject, task_id: str) -> None:
    adapter = subject.info.build(Door(subject, task_id))
    assert isinstance(adapter, MakesRefs)
    slug, sold = next(iter(subject.sold.items()))
    submitted = await adapter.submit(sold.calls["minimal"].request, subject.offering(slug))
    assert adapter.ref_of(task_id) == submitted.ref
    assert submitted.vendor_task_id == task_id


@each_adapter
@pytest.mark.parametrize("task_id", IDS)
async def test_such_a_reference_asks_for_the_very_id(subject: Subject, task_id: str) -> None:
    door = Door(subject, task_id)
    adapter = subject.info.build(door)
    assert isinstance(adapter, MakesRefs)
    with pytest.raises(VendorError) as caught:
        await adapter.poll(adapter.ref_of(task_id))
    assert caught.value.kind == "not_found"
    asks = subject.answers.asks
    assert door.asked == [(filled(asks.path, ID=task_id), filled({**asks.query}, ID=task_id))]


def test_the_id_that_cannot_exist_is_a_usable_one() -> None:
    assert usable_task_id(NO_JOB) == NO_JOB
