"""How a watch outlives a gateway that cannot answer, against a stub on a real socket, in time of its own.

Not held here: what a watch shows and exits with (`test_videos`).
"""

from __future__ import annotations

from itertools import pairwise

import pytest

from gateway.client.http import Client, ClientError, Exit, Unavailable
from tests.cli.stub import Answer, Stub, problem, say, video

DONE = video("completed", stage="stored")


class Clock:
    """Time that passes only while somebody sleeps; `slept` are the pauses, those of nothing left out."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.slept: list[float] = []

    def now(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        if seconds:
            self.slept.append(round(seconds, 6))


def busy(retry_after: str | None = None, status: int = 503) -> Answer:
    return problem(status, detail="busy")._replace(retry_after=retry_after)


def watch(stub: Stub, answers: list[Answer], timeout_seconds: float | None = None) -> tuple[Clock, str]:
    """Follow a video through these answers; the clock, and the status that it came to."""
    stub.script, clock = answers, Clock()
    with Client(stub.url, None, now=clock.now, sleep=clock.sleep) as client:
        *_, last = client.follow("video_1", timeout_seconds)
    return clock, last["status"]


@pytest.mark.parametrize("status", [429, 503])
def test_who_is_told_when_to_come_again_comes_then(stub: Stub, status: int) -> None:
    told = ["7", "1", "30", "0"]
    clock, seen = watch(stub, [say(video()), *[busy(one, status) for one in told], say(DONE)])
    assert (clock.slept[1:], seen) == ([7.0, 1.0, 30.0, 0.2], "completed"), "though never without a pause"


@pytest.mark.parametrize("said", [None, "soon", "-1", "nan", "Fri, 07 Nov 2031 23:59:59 GMT"])
def test_who_is_told_nothing_waits_longer_each_time_up_to_a_bound(stub: Stub, said: str | None) -> None:
    refusals = 10
    clock, _ = watch(stub, [say(video()), *[busy(said)] * refusals, say(DONE)])
    waited = clock.slept[1:]
    assert len(waited) == refusals
    assert all(later > earlier or later == max(waited) for earlier, later in pairwise(waited))
    assert (waited[0] < 0.5, 2 <= max(waited) <= 10) == (True, True)


def test_after_an_answer_the_pauses_are_short_again(stub: Stub) -> None:
    clock, _ = watch(stub, [say(video()), *[busy()] * 4, say(video()), busy(), say(DONE)])
    assert clock.slept[-1] == clock.slept[1] < clock.slept[2]


def test_it_says_once_that_it_waits(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    watch(stub, [say(video()), busy(), busy("2"), busy(), say(DONE)])
    assert capsys.readouterr().err.count("Trying again.") == 1


def test_no_pause_is_longer_than_the_time_that_was_given(stub: Stub) -> None:
    clock = Clock()
    stub.script = [say(video()), busy("50")]
    with (
        Client(stub.url, None, now=clock.now, sleep=clock.sleep) as client,
        pytest.raises(ClientError, match="Not finished after 3 s") as raised,
    ):
        list(client.follow("video_1", 3.0))
    assert (clock.seconds, raised.value.exit_code) == (3.0, Exit.STOPPED)


@pytest.mark.parametrize("said", [None, "2", "86400"])
def test_a_gateway_that_stays_away_is_given_up(stub: Stub, said: str | None) -> None:
    clock = Clock()
    stub.script = [say(video()), busy(said)]
    with (
        Client(stub.url, None, now=clock.now, sleep=clock.sleep) as client,
        pytest.raises(Unavailable, match="busy"),
    ):
        list(client.follow("video_1"))
    assert 60 <= clock.seconds <= 70
