"""What calls say of a provider, and the free call that finds out whether one that was down is back.

Never a paid one. Not held here: what follows for submissions (`gateway.core.health`).
"""

from __future__ import annotations

from gateway.core.health import DOWN, REFUSES_POLLS, REFUSES_US
from gateway.engine.loop import Engine
from gateway.engine.provider import Provider
from providers.spec import VendorError


def answered(engine: Engine, provider: Provider) -> None:
    """A free call was answered, whatever the answer: somebody is there."""
    if provider.health.asked(engine.now()):
        provider.gate.slow()
        engine.look()


def unanswered(engine: Engine, provider: Provider, task_id: str, error: VendorError) -> None:
    """A free call could not be made. A complete refusal is an answer too, unless of what we bought.

    `task_id` is '' for a call of no task's: it may ask for a job that cannot exist, and hear just that.
    """
    health, now = provider.health, engine.now()
    if task_id or error.kind in DOWN or error.kind in REFUSES_US:
        health.last_error = error.kind
    if error.kind in DOWN:
        health.polls.failed(task_id, now, engine.chance)
    elif task_id and error.kind in REFUSES_POLLS:
        health.job_refused(task_id, now, engine.chance)
    elif error.kind in REFUSES_US:
        health.poll_refused(task_id)
        provider.gate.slow()
    else:
        answered(engine, provider)


async def probe(engine: Engine, provider: Provider) -> None:
    """Ask for a job. Of an adapter that cannot be asked without one, time alone must tell.

    What is heard of a job of ours is not forgotten: its next poll may find nobody there again.
    """
    health = provider.health
    is_doubt = not health.is_away  # few tasks fail; it is well, unless it fails for no task, too
    ref = provider.no_ref() if is_doubt else provider.probe_ref()
    if is_doubt and ref is None:
        return
    provider.polls.pace.spend(engine.now())
    task_id = provider.last_task if ref is provider.last_ref else ""  # another may be the latest later
    try:
        progress = None if ref is None else await provider.adapter.poll(ref)
    except VendorError as error:
        if is_doubt and error.kind in DOWN:
            if error.reason is None:  # there are vendors that say so of every job that they do not know
                health.last_error = error.kind
                health.missed(engine.now(), engine.chance)
        elif task_id and error.kind in REFUSES_POLLS and provider.no_ref() is not None:
            health.last_error = error.kind  # the next to be asked for is a job that cannot exist
        elif error.reason is not None and health.has_trial(engine.now()):
            answered(engine, provider)  # likewise, and it has been asked in vain for long enough
        else:
            unanswered(engine, provider, "", error)
    except Exception as error:  # noqa: BLE001 - a fault of an adapter is no answer, and must not be silent
        engine.telemetry.step_failed("", error)
    else:
        answered(engine, provider)
        if progress is not None and ref is not None:
            engine.heard(provider, task_id, ref, progress)
