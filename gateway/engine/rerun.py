"""Whether a render that its vendor failed may be bought once more elsewhere: a policy, with limits.

Not held here: what follows (`gateway.core.tasks`), the settings (`[routing] rerun_failed`).
"""

from __future__ import annotations

from decimal import Decimal
from functools import partial

from gateway.core.facts import Candidate, RerunAllowed
from gateway.core.money import render_failed
from gateway.core.states import Task
from gateway.engine.loop import Engine
from gateway.engine.request import load_request
from providers.spec import Charged, Failed, VideoRequest


async def permission(engine: Engine, task: Task, failed: Failed, charged: Charged) -> RerunAllowed | None:
    """The permission, if the policy gives one. A refused content is not shopped around."""
    policy = engine.fleet.settings.routing
    is_over = engine.now() >= task.deadline_at or failed.code == "content_policy"
    if task.state != "rendering" or task.reruns >= policy.rerun_failed or is_over:
        return None
    others = [some for some in task.open_candidates if some != task.tried and _takes(engine, some)]
    if others and policy.rerun_cost_limit is not None:
        request = await engine.insist(task.id, partial(load_request, engine.store, task.id))
        limit = policy.rerun_cost_limit
        before = render_failed(task, charged)
        others = [some for some in others if _is_affordable(engine, before, request, some, limit)]
    if not others:
        return None
    dear = tuple(some for some in task.open_candidates if some not in others)
    return RerunAllowed(failed, charged, dear, f"the policy rerun_failed = {policy.rerun_failed}")


def _takes(engine: Engine, candidate: Candidate) -> bool:
    """Whether it is still there and takes something new."""
    found = engine.fleet.find(candidate)
    is_retired = candidate in engine.fleet.retired
    return found is not None and not (is_retired or found[0].health.is_draining)


def _is_affordable(
    engine: Engine, task: Task, request: VideoRequest, candidate: Candidate, limit: Decimal
) -> bool:
    """Whether one more there stays within the limit. What has no price, or another currency, does not."""
    found = engine.fleet.find(candidate)
    price = None if found is None else found[0].price(found[1], request)
    if price is None:
        return False
    if task.charged == "no":
        return price[0] <= limit
    if task.cost_amount is None or task.cost_currency != price[1]:
        return False
    return Decimal(task.cost_amount) + price[0] <= limit
