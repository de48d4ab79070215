"""An operator's word on a submission whose outcome nobody knows: adopt the job, give it up, send once more.

Held here: the route, and the video that continues one which was given up before its job was found. Not held
here: what follows from a decision (`gateway.core.tasks`), the policies that act without one
(`gateway.engine.unknown`).
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Final, Literal, TypeAlias

from litestar import Request, Response, post
from litestar.params import FromPath
from msgspec import Meta, Struct
from msgspec.structs import replace

from gateway.api.answers import answer, place_in_line, place_of
from gateway.api.audit import entry_of
from gateway.api.auth import operator
from gateway.api.gateway import Gateway, caller_of, gateway_of, new_video_id
from gateway.api.problems import responses
from gateway.api.quotas import check_spending, over
from gateway.api.reading import read_struct
from gateway.api.shapes import VideoObject
from gateway.core.facts import Abandoned, Adopted, Continued, Fact, ResubmitAllowed
from gateway.core.states import Change, Task, accepted_event
from gateway.core.tasks import IllegalTransition, apply
from gateway.errors import Problem, invalid
from gateway.storage.allowance import Allowance, OverLimit
from gateway.storage.audit import Facts, recording
from gateway.storage.db import Duplicate, GuardFailed, Step
from gateway.storage.rows import NewVideo, Video
from gateway.storage.store import saving
from providers.spec import MakesRefs, Submitted, usable_task_id

_JobId: TypeAlias = Annotated[str, Meta(description="the vendor's id of the job, as its console has it")]
_ID_CHARS: Final = "1 to 256 of the letters, digits and signs that the vendors' ids have"


class ResolveBody(Struct, forbid_unknown_fields=True):
    """A decision; `vendor_task_id` goes with `adopt`, and with nothing else. `resubmit` may charge twice."""

    action: Literal["adopt", "fail", "resubmit"]
    vendor_task_id: _JobId | None = None


@post(
    "/v1/videos/{video_id:str}/resolve", status_code=200, opt={"role": "operator", "scope": "videos:resolve"},
    responses=responses(404, 409, 413),
    summary="Decide about an unknown submission", tags=["operations"],
)
async def resolve_video(request: Request[Any, Any, Any], video_id: FromPath[str]) -> Response[VideoObject]:
    """Decide about anybody's video that is `submission_unknown`; its timeline keeps who did.

    `adopt`: the vendor has the job, under this id; it is followed. Once the video has failed with
    `submission_unknown` this makes a new video of the same owner, with `adopted_from`. `fail`: it is given
    up, and may have been charged. `resubmit`: it is sent once more, and MAY BE CHARGED TWICE.
    """
    gateway, by = gateway_of(request), operator(caller_of(request))
    body = read_struct(await request.body(), ResolveBody)
    job_id = _job_id(body)
    while True:
        video = await gateway.store.video_any(video_id)
        if video is None:
            raise Problem("not_found", f"There is no video {video_id[:80]!r}.")
        if job_id is not None and _is_given_up(video.task):
            try:
                return await _adopt_anew(request, video, job_id)
            except GuardFailed:
                continue  # something was learned of it meanwhile
        change = _decided(gateway, video.task, body, by)
        if body.action == "resubmit":
            await check_spending(gateway, video.task.charged)
        also = (_recorded(request, body.action, video.task, change.task),)
        try:
            task = await gateway.store.task_save(change, await _room(gateway, body, change.task), also)
        except OverLimit as error:
            accounts = await gateway.engine.accounts.held_to(change.task)
            raise await over(gateway, accounts, change.task, error) from None
        except GuardFailed:
            continue  # it changed meanwhile: look again
        except Duplicate:
            raise _taken(video.task) from None
        place = await place_in_line(gateway, task)
        return answer(Video(task, video.request, video.metadata), place, 200, {})


async def _room(gateway: Gateway, body: ResolveBody, task: Task) -> Allowance | None:
    """What must hold of the video's key and team: sent once more it may cost as much again."""
    if body.action != "resubmit":
        return None
    accounts = await gateway.engine.accounts.held_to(task)
    return Allowance(accounts=accounts, at=task.created_at, has_money=True)


def _recorded(request: Request[Any, Any, Any], decision: str, task: Task, after: Task) -> Step:
    """The record of a decision about `task`; `after` is what it became, or the new video that goes on."""
    became = _facts(after) | {"decision": decision, "video": after.id}
    return recording(entry_of(request, "video.resolved", task.id, _facts(task), became))


def _facts(task: Task) -> Facts:
    return {
        "state": task.state, "charged": task.charged, "provider": task.provider,
        "vendor_task_id": task.vendor_task_id,
    }


def _job_id(body: ResolveBody) -> str | None:
    """The vendor's id that is handed in. Raises Problem for one that is no id, or goes with nothing."""
    if body.action != "adopt":
        if body.vendor_task_id is not None:
            raise invalid("/vendor_task_id", "vendor_task_id goes with the action `adopt` only.")
        return None
    job_id = usable_task_id(body.vendor_task_id)
    if job_id is None:
        raise invalid("/vendor_task_id", f"`adopt` needs the vendor's id of the job: {_ID_CHARS}.")
    return job_id


def _decided(gateway: Gateway, task: Task, body: ResolveBody, by: str) -> Change:
    """What the decision makes of the task. Raises Problem when there is nothing to decide."""
    if task.state != "submission_unknown":
        what = f"{task.status} ({task.error_code})" if task.error_code else task.stage or task.status
        raise _refused(task, f"The video is {what}: nothing about it is unknown.")
    fact: Fact
    if body.action == "adopt":
        job_id = body.vendor_task_id or ""
        if task.vendor_task_id not in (None, job_id):
            known = f"This video has the job {task.vendor_task_id}; fail it first to adopt another."
            raise _refused(task, known)
        fact = Adopted(_job(gateway, task, job_id), by)
    else:
        fact = Abandoned(by) if body.action == "fail" else ResubmitAllowed(by)
    return apply(task, fact, gateway.now())


def _job(gateway: Gateway, task: Task, job_id: str) -> Submitted:
    """The job as its vendor's adapter asks for it. Raises Problem when none can."""
    provider = gateway.fleet.providers.get(task.provider or "")
    if provider is None:
        raise _refused(task, f"The provider {task.provider} is not configured any more.")
    if not isinstance(provider.adapter, MakesRefs):
        name = provider.settings.adapter.name
        raise _refused(task, f"The adapter {name} cannot follow a job by its vendor's id alone.")
    return Submitted(vendor_task_id=job_id, ref=provider.adapter.ref_of(job_id))


def _is_given_up(task: Task) -> bool:
    return task.state == "failed" and task.error_code == "submission_unknown"


async def _adopt_anew(request: Request[Any, Any, Any], old: Video, job_id: str) -> Response[VideoObject]:
    """A new video for the job of one that has ended without it, since an ended one never changes."""
    gateway, by, task = gateway_of(request), operator(caller_of(request)), old.task
    if task.vendor_task_id == job_id:
        detail = "This video has that job itself: it is looked up for a day"
        raise _refused(task, f"{detail}, and what it brings is this video's late_output.")
    job = _job(gateway, task, job_id)
    try:
        asked = await gateway.store.asked_get(task.id)
    except GuardFailed:
        raise Problem("not_found", "The video was deleted meanwhile.") from None
    change = apply(_continued(gateway, task), Adopted(job, by), gateway.now())
    first = accepted_event(change.task)
    first = replace(first, detail=first.detail | {"adopted_from": task.id})
    new = NewVideo(
        task=change.task, request=asked.request, metadata=asked.metadata, inputs=asked.inputs,
        pins=asked.pins, events=(first, *change.events), webhook_url=asked.webhook_url,
        webhook_origin=asked.webhook_origin,
    )
    released = _released(gateway, task, new.task.id, by)
    after, steps = saving(released)
    try:
        await gateway.store.video_add(new, also=(_recorded(request, "adopt", task, new.task), *steps))
    except Duplicate:
        raise _taken(task) from None
    gateway.store.tell(after, released.events)
    video = Video(new.task, new.request, new.metadata)
    return answer(video, None, 200, {"Location": place_of(new.task.id)})


def _released(gateway: Gateway, task: Task, video_id: str, by: str) -> Change:
    """The given-up video without what it held for the job that `video_id` has now, if it held anything."""
    try:
        return apply(task, Continued(video_id, by), gateway.now())
    except IllegalTransition:
        return Change(task, task, ())  # it is fenced all the same


def _continued(gateway: Gateway, task: Task) -> Task:
    """A task that was sent where `task` was sent last, and of which nothing more is known yet."""
    now = gateway.now()
    return Task(
        id=new_video_id(now), owner=task.owner, model=task.model, state="submission_unknown",
        candidates=(task.tried,), created_at=now, deadline_at=now + task.deadline_at - task.created_at,
        last_seq=1, replica=gateway.engine.owner, priority=task.priority, provider=task.provider,
        offering=task.offering, attempts=1, submitted_at=now, started_at=now, unknown_at=now,
        charged="unknown", cost_amount=_last_cost(task), cost_currency=task.cost_currency,
        adopted_from=task.id, key_id=task.key_id, reserved_currency=task.reserved_currency,
        sent_amount=task.sent_amount, sent_currency=task.sent_currency, charged_now="unknown",
        traceparent=task.traceparent,
    )


def _last_cost(task: Task) -> str | None:
    """What the last sending alone was expected to cost."""
    if task.cost_amount is None or task.cost_before is None:
        return task.cost_amount
    return str(Decimal(task.cost_amount) - Decimal(task.cost_before))


def _refused(task: Task, detail: str) -> Problem:
    return Problem("not_resolvable", detail, extra={"charged": task.charged})


def _taken(task: Task) -> Problem:
    return _refused(task, f"The job of that id at {task.provider} belongs to another video already.")
