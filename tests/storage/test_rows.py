"""A task and its row: what is kept shorter in memory than it is stored comes back as it was.

Not held here: statements (`tests/contract/test_store.py`), what changes a task (`tests/core`).
"""

from __future__ import annotations

import msgspec
import pytest

from gateway.core.facts import Accepted
from gateway.core.states import ref_of
from gateway.core.tasks import apply
from gateway.storage.rows import TASK_COLUMNS, task_of, task_values
from providers.spec import Submitted
from tests.core.made import NOW, RENDERING, life

SENT = life(*RENDERING[:1])


@pytest.mark.parametrize(
    ("job", "ref", "kept"),
    [
        ("v-1", {"id": "v-1"}, '{"id":null}'),
        ("v-1", {"id": "v-1", "at": "v-1", "v-1": "eu"}, '{"id":null,"at":null,"v-1":"eu"}'),
        ("v-1", {"id": "v-1/2", "as": "null"}, '{"id":"v-1/2","as":"null"}'),
        ("null", {"id": "null", "as": ':"null"'}, '{"id":null,"as":":\\"null\\""}'),
        ('a "quoted" id\\é', {"id": 'a "quoted" id\\é'}, '{"id":null}'),
        (",", {"at": "eu:", "id": ","}, '{"at":"eu:","id":null}'),
        ("v-1", {}, "{}"),
    ],
)
def test_a_reference_is_kept_without_the_jobs_id_and_stored_with_it(
    job: str, ref: dict[str, str], kept: str
) -> None:
    task = apply(SENT, Accepted(Submitted(vendor_task_id=job, ref=ref)), NOW + 1).task
    row = task_values(task)
    assert (task.ref, ref_of(task)) == (kept, ref)
    assert msgspec.json.decode(str(row[TASK_COLUMNS.index("ref")])) == ref
    assert task_of(row) == task


def test_a_task_that_has_no_job_has_no_reference() -> None:
    row = task_values(SENT)
    assert (ref_of(SENT), row[TASK_COLUMNS.index("ref")], task_of(row)) == (None, None, SENT)
