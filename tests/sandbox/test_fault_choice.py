"""How faults are chosen: by directives in a prompt, in what order and how often, and what polls then tell.

Not held here: what each row does to one answer (test_faults).
"""

from __future__ import annotations

import io
import math

import httpx
import pytest

from gateway.sandbox.admin import ArmRequest
from gateway.sandbox.faults import arm, directives
from gateway.sandbox.probe import probe_stream
from gateway.sandbox.server import Sandbox
from tests.sandbox.conftest import VirtualClock
from tests.sandbox.requests import PLAIN, create_path, poll_path
from tests.sandbox.stage import Stage

pytestmark = pytest.mark.anyio


async def create(client: httpx.AsyncClient, prompt: str, vendor: str = "highwayapi") -> httpx.Response:
    slug, body = PLAIN[vendor]
    return await client.post(create_path(vendor, slug), json=body | {"prompt": prompt})


async def told_by_polls(client: httpx.AsyncClient, task_id: str, count: int) -> list[tuple[str, float]]:
    tasks = [(await client.get(poll_path("highwayapi", task_id))).json()["task"] for _ in range(count)]
    return [(task["status"].removeprefix("TASK_STATUS_"), task["progress_percent"]) for task in tasks]


@pytest.mark.parametrize(
    ("directive", "elapsed", "expected"),
    [
        ("backwards", 101, ["SUCCEED 100", "QUEUED 0", "SUCCEED 100"]),
        ("flapping", 57.5, ["PROCESSING 50", "QUEUED 50", "PROCESSING 50", "QUEUED 50"]),
        ("jumping_progress", 57.5, ["PROCESSING 80", "PROCESSING 20", "PROCESSING 150", "PROCESSING -5"]),
        ("stuck", 9e9, ["QUEUED 0", "QUEUED 0"]),
        ("failed", 57.5, ["PROCESSING 50", "PROCESSING 50"]),
        ("unknown_status word=BAKING times=2", 101, ["BAKING 100", "BAKING 100", "SUCCEED 100"]),
    ],
)
async def test_polls_tell_a_story(
    client: httpx.AsyncClient, clock: VirtualClock, directive: str, elapsed: float, expected: list[str]
) -> None:
    task_id = (await create(client, f"a fox [[fault:{directive}]]")).json()["task_id"]
    clock.now += elapsed
    seen = await told_by_polls(client, task_id, len(expected))
    assert [f"{word} {progress:g}" for word, progress in seen] == expected


async def test_a_task_is_not_known_for_a_while(client: httpx.AsyncClient) -> None:
    task_id = (await create(client, "a fox [[fault:not_found]]")).json()["task_id"]
    codes = [(await client.get(poll_path("highwayapi", task_id))).status_code for _ in range(3)]
    assert codes == [404, 404, 200]


async def test_failures_have_their_reason(client: httpx.AsyncClient, clock: VirtualClock) -> None:
    prompt = 'a fox [[fault:failed reason="illegal content" code=content_policy_violation]]'
    v3 = (await create(client, prompt)).json()["task_id"]
    unified = (await create(client, prompt, "unified")).json()["id"]
    clock.now += 101
    assert (await client.get(poll_path("highwayapi", v3))).json()["task"]["reason"] == "illegal content"
    assert (await client.get(poll_path("unified", unified))).json()["error"] == {
        "code": "content_policy_violation", "message": "illegal content", "type": "task_error",
    }


async def test_links_of_a_fault_lead_nowhere(client: httpx.AsyncClient, clock: VirtualClock) -> None:
    expected = {"dead_link": 404, "short_link": 403, "short_link times=0": 200}
    for directive, status in expected.items():
        task_id = (await create(client, f"a fox [[fault:{directive}]]")).json()["task_id"]
        clock.now += 101
        video = (await client.get(poll_path("highwayapi", task_id))).json()["videos"][0]
        assert video["video_url_ttl"] == "3600"
        assert (await client.get(video["video_url"])).status_code == status, directive


async def test_other_bytes_are_still_a_clip(client: httpx.AsyncClient, clock: VirtualClock) -> None:
    task_id = (await create(client, "a fox [[fault:other_bytes]]")).json()["task_id"]
    clock.now += 101
    link = (await client.get(poll_path("highwayapi", task_id))).json()["videos"][0]["video_url"]
    first, second = await client.get(link), await client.get(link)
    assert first.content != second.content
    assert first.headers["etag"] != second.headers["etag"]
    for answer in (first, second):
        assert probe_stream(io.BytesIO(answer.content)).width == 1280


async def test_drips_and_pauses_take_the_clocks_time(sandbox: Sandbox, clock: VirtualClock) -> None:
    stage = Stage(sandbox, "highwayapi")
    for name, least in {"drip": 100, "late": 5}.items():
        sandbox.arm(ArmRequest(fault=name, phase="submit"))
        before = clock.now
        await stage.call("submit")
        assert clock.now - before >= least


async def test_times_count_submits_of_one_prompt(client: httpx.AsyncClient, sandbox: Sandbox) -> None:
    prompt = "a fox [[fault:rate_limited times=2 retry_after=3]]"
    answers = [await create(client, prompt) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [429, 429, 200]
    assert answers[0].headers["retry-after"] == "3"
    assert (await create(client, prompt + " again")).status_code == 429
    always = [(await create(client, "a fox [[fault:no_credit]]")).status_code for _ in range(3)]
    assert always == [400, 400, 400]
    assert len(sandbox.ledger) == 1


async def test_a_directive_may_name_a_vendor_and_several_may_strike(
    client: httpx.AsyncClient, clock: VirtualClock, sandbox: Sandbox
) -> None:
    prompt = "a fox [[fault:no_credit vendor=unified]] [[fault:failed]] [[fault:jumping_progress]]"
    assert (await create(client, prompt, "unified")).status_code == 402
    task_id = (await create(client, prompt)).json()["task_id"]
    clock.now += 101
    assert await told_by_polls(client, task_id, 1) == [("FAILED", 80)]
    assert sandbox.world.tasks["highwayapi", task_id].words == "a fox"


async def test_duplicate_id_is_charged_twice(client: httpx.AsyncClient, sandbox: Sandbox) -> None:
    first = (await create(client, "a fox")).json()
    second = (await create(client, "a fox [[fault:id_duplicate]]")).json()
    assert first == second
    assert len(sandbox.ledger) == 2


async def test_a_window_strikes_everything_until_it_ends(
    client: httpx.AsyncClient, clock: VirtualClock, sandbox: Sandbox
) -> None:
    task_id = (await create(client, "a fox")).json()["task_id"]
    sandbox.arm(ArmRequest(fault="maintenance_window", vendor="highwayapi"))
    started = clock.now
    for hours, status in {0: 503, 5.9: 503, 6: 200}.items():
        clock.now = started + hours * 3600
        made, polled = await create(client, "a fox"), await client.get(poll_path("highwayapi", task_id))
        assert (made.status_code, polled.status_code) == (status, status)
        assert (await create(client, "a fox", "unified")).status_code == 200


async def test_a_window_of_a_prompt_begins_with_its_first_strike(
    client: httpx.AsyncClient, clock: VirtualClock
) -> None:
    prompt = "a fox [[fault:rate_limited phase=all lasts=60]]"
    assert [(await create(client, prompt)).status_code for _ in range(3)] == [429] * 3
    clock.now += 60
    assert (await create(client, prompt)).status_code == 200


async def test_a_refusal_and_a_broken_line_together(client: httpx.AsyncClient, sandbox: Sandbox) -> None:
    answer = await create(client, "a fox [[fault:rate_limited]] [[fault:late seconds=2]]")
    assert answer.status_code == 429
    with pytest.raises(httpx.RemoteProtocolError):
        await create(client, "a fox [[fault:server_error status=502 reason=BAD]] [[fault:truncated_body]]")
    assert not sandbox.ledger


@pytest.mark.parametrize("text", [
    "none", "", "hang phase=later", "stuck phase=submit", "hang x=1", "late seconds=soon", "hang times=x",
    "hang vendor=none", 'failed reason="',
])
async def test_misspelt_directives_are_refused(
    client: httpx.AsyncClient, sandbox: Sandbox, text: str
) -> None:
    answer = await create(client, f"a fox [[fault:{text}]]")
    assert answer.status_code == 400
    assert "directive" in answer.json()["message"]
    assert not sandbox.ledger


def test_arguments_have_the_type_of_their_default() -> None:
    armed = arm("late", {"seconds": "2", "times": "3", "phase": "poll"})
    assert (armed.args["seconds"], armed.left, armed.phase) == (2.0, 3, "poll")
    assert math.isclose(float(arm("late", {}).args["seconds"]), 5)
    assert directives("[[ref:a]] x  y [[fault:stuck]]").words == "x y"
