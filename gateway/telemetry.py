"""Metrics and the log: other code says what happened, this file says it onward.

Log lines take named fields from an allow-list of plain values; there is no way to log "the request". Never a
key, a prompt, a header or a link with its query. Not held here: when something is reported (the callers of
these methods), what of a video may be reported (`gateway.reported`), the metrics themselves
(`gateway.metrics`), how a line is written (`gateway.logs`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from gateway import logs
from gateway.metrics import Current, Metrics
from gateway.reported import (
    BOUGHT,
    UNLOGGED,
    WARNINGS,
    Delivered,
    Followed,
    Happening,
    doubter,
    fields,
    holder,
)

RESULTS: Final = ("accepted", "rejected", "not_sent", "unknown")
STATUSES: Final = ("queued", "in_progress", "completed", "failed", "cancelled")
PROVIDER_STATES: Final = ("healthy", "degraded", "open", "paused", "draining")
OUTCOMES: Final = ("completed", "failed", "cancelled")
WEBHOOKS: Final = ("delivered", "retried", "failed", "disabled")  # what became of a webhook after a try
RELOADS: Final = ("applied", "refused")
COPIES: Final = ("stored", "retried", "lost")  # what became of a try to store a file
POLLS: Final = ("pending", "succeeded", "failed", "unrecognised", "error")
NOWHERE: Final = "-"  # in place of a provider, where there is none: no provider is called so
MONEY: Final = ("reserved", "settled")
# What a vendor call came to, as the vendors' door counts it.
CALLS: Final = ("2xx", "3xx", "4xx", "5xx", "not_sent", "timeout", "broken", "junk", "cancelled", "crashed")

_ALARMS: Final = frozenset({"open", "paused"})  # states of a provider that somebody should look at


def _move(gauge: Callable[..., Gauge], before: str | None, after: str | None) -> None:
    """One task less is counted at `before`, one more at `after`."""
    if before == after:
        return
    if before is not None:
        gauge(before).dec()
    if after is not None:
        gauge(after).inc()


class Telemetry:
    """The metrics of one process in a registry of their own, and its log. All series exist from the start."""

    def __init__(self, providers: Mapping[str, Sequence[str]], current: Current | None = None) -> None:
        """`providers`: for each configured provider the models that it serves. `current`: see `Metrics`."""
        self._metrics = Metrics(current)
        self.registry = self._metrics.registry
        self.follow_configuration()
        self._states: dict[str, str] = {}
        self._is_short = False
        self._spent_at: set[tuple[str, str, str]] = set()
        self._define()
        self._define_unlabelled()
        for provider, models in providers.items():
            self.add_provider(provider, models)

    def follow_configuration(self) -> None:
        """Log as `gateway.logs` is configured by now."""
        self.log = logs.logger()  # once: for each line it costs as much as the line

    def _define(self) -> None:
        counter = partial(self._metrics.by_labels, Counter)
        gauge = partial(self._metrics.by_labels, Gauge)
        histogram = partial(self._metrics.by_labels, Histogram)
        self.http = histogram("reelgate_http_request_duration_seconds")
        self.videos = gauge("reelgate_videos")
        self.video_duration = histogram("reelgate_video_duration_seconds")
        self.queue_wait = histogram("reelgate_queue_wait_seconds")
        self.submissions = counter("reelgate_submissions")
        self.submission_unknown = gauge("reelgate_submission_unknown")
        self.vendor_request = histogram("reelgate_vendor_request_duration_seconds")
        self.polls = counter("reelgate_polls")
        self.detection_delay = histogram("reelgate_detection_delay_seconds")
        self.unrecognised = counter("reelgate_unrecognised_status")
        self.provider_state = gauge("reelgate_provider_state")
        self.provider_refuses_us = gauge("reelgate_provider_refusing")
        self.provider_in_flight = gauge("reelgate_provider_in_flight")
        self.provider_limit = gauge("reelgate_provider_in_flight_limit")
        self.poll_stretch = gauge("reelgate_poll_stretch")
        self.cost = counter("reelgate_cost")
        self.spending = gauge("reelgate_spending_today")
        self.file_copies = counter("reelgate_file_copies")
        self.webhook_deliveries = counter("reelgate_webhook_deliveries")
        self.config_reloads = counter("reelgate_config_reloads")
        self.http("unmatched", "GET", "404")
        for series, values in (
            (self.videos, STATUSES), (self.file_copies, COPIES), (self.webhook_deliveries, WEBHOOKS),
            (self.config_reloads, RELOADS),
        ):
            for value in values:
                series(value)

    def _define_unlabelled(self) -> None:
        one = self._metrics.one
        self.poll_lag = one(Histogram, "reelgate_poll_lag_seconds")
        self.accepted = one(Counter, "reelgate_videos_accepted")
        self.oldest_unfinished = one(Gauge, "reelgate_oldest_unfinished_seconds")
        self.violations = one(Counter, "reelgate_invariant_violations")
        self.stored_bytes = one(Counter, "reelgate_files_stored_bytes")
        self.unstored_oldest = one(Gauge, "reelgate_file_unstored_oldest_seconds")
        self.webhook_oldest_pending = one(Gauge, "reelgate_webhook_oldest_pending_seconds")
        self.webhook_late = one(Gauge, "reelgate_webhook_late_seconds")
        self.spending_stopped = one(Gauge, "reelgate_spending_stopped")
        self.database_short = one(Gauge, "reelgate_database_short")
        self.config_is_good = one(Gauge, "reelgate_config_last_reload_successful")
        self.config_at = one(Gauge, "reelgate_config_last_reload_success_timestamp_seconds")
        self.config_is_good.set(1)

    def add_provider(self, provider: str, models: Sequence[str], currencies: Sequence[str] = ()) -> None:
        """Make every series of a provider exist, at zero: "no data" and "nothing happened" differ."""
        by_provider = (
            self.queue_wait, self.submission_unknown, self.detection_delay, self.provider_in_flight,
            self.unrecognised, self.provider_refuses_us,
        )
        for series in by_provider:
            series(provider)
        self.provider_limit(provider).set(math.inf)
        self.poll_stretch(provider).set(1.0)
        for currency in ("USD", *currencies):
            self.cost(provider, currency)
            for state in MONEY:
                self._spent_at.add((provider, currency, state))
                self.spending(provider, currency, state)
        for result in RESULTS:
            self.submissions(provider, result)
        for answer in POLLS:
            self.polls(provider, answer)
        for outcome in CALLS:
            for operation in ("submit", "poll"):
                self.vendor_request(provider, operation, outcome)
        for model in models:
            for outcome in OUTCOMES:
                self.video_duration(provider, model, outcome)
        if provider not in self._states:  # a reload changes nothing of how it is
            self.provider_is(provider, "healthy")

    def provider_is(self, provider: str, state: str, why: str = "") -> None:
        """Say which state a provider is in; a change is logged, and one that needs somebody is an error."""
        before = self._states.get(provider)
        if before == state:
            return
        self._states[provider] = state
        for known in PROVIDER_STATES:
            self.provider_state(provider, known).set(known == state)
        if before is not None:
            write = self.log.error if state in _ALARMS else self.log.info
            write("provider_state", provider=provider, state=state, before=before, why=why or None)

    def provider_has(self, provider: str, limit: int | None, *, refuses_us: bool) -> None:
        """How many jobs a provider may have (None: any number), and whether it refuses key or account."""
        self.provider_limit(provider).set(math.inf if limit is None else limit)
        self.provider_refuses_us(provider).set(refuses_us)

    def spent_today(self, spent: Mapping[tuple[str, str, str], float]) -> None:
        """Today's money by provider, currency and one of MONEY; what is not told is 0 by now."""
        self._spent_at |= spent.keys()
        for series in self._spent_at:
            self.spending(*series).set(spent.get(series, 0.0))

    def spending_turned(self, by: str | None, *, is_stopped: bool) -> None:
        """All spending is stopped from now on, or begins again; `by`: who ordered it, as far as known."""
        self.spending_stopped.set(is_stopped)
        if is_stopped:
            self.log.warning("spending_stopped", by=by)
        else:
            self.log.info("spending_started", by=by)

    def database_is(self, trouble: str | None) -> None:
        """Why the database takes nothing new, in a sentence; None: it does. A change of that is logged."""
        was_short, self._is_short = self._is_short, trouble is not None
        self.database_short.set(self._is_short)
        if trouble is not None and not was_short:
            self.log.error("database_short", error=trouble)
        elif trouble is None and was_short:
            self.log.info("database_well")

    def video_deleted(self, status: str) -> None:
        """A video of this status was removed."""
        self.videos(status).dec()

    def videos_are(self, counts: Mapping[str, int]) -> None:
        """How many stored videos have each status."""
        for status in STATUSES:
            self.videos(status).set(counts.get(status, 0))

    def vendor_called(self, provider: str, operation: str, outcome: str, seconds: float) -> None:
        """A call to a vendor ended."""
        self.vendor_request(provider, operation, outcome).observe(seconds)

    def polled(self, provider: str, outcome: str, lag_seconds: float) -> None:
        """A poll was made, `lag_seconds` later than planned."""
        self.polls(provider, outcome).inc()
        self.poll_lag.observe(max(0.0, lag_seconds))
        if outcome == "unrecognised":
            self.unrecognised(provider).inc()

    def request_answered(
        self, route: str, method: str, status: int, seconds: float, request_id: str
    ) -> None:
        """One access line, and one observation, per request."""
        self.http(route, method, str(status)).observe(seconds)
        self.log.info(
            "request", route=route, method=method, status=status, ms=round(seconds * 1000, 2),
            request_id=request_id,
        )

    @staticmethod
    def in_request(request_id: str) -> None:
        """Have every line that is written while this request is served say its id."""
        logs.request_id.set(request_id)

    def task_changed(
        self, before: Followed | None, after: Followed, events: Sequence[Happening]
    ) -> None:
        """A task was created, changed, or taken over: one log line per event, and the metrics that follow."""
        for event in events:
            if event.type in UNLOGGED:
                continue
            write = self.log.warning if event.type in WARNINGS else self.log.info
            write(event.type, **fields(after, event))
        kinds = {event.type for event in events}
        if "accepted" in kinds:
            self.accepted.inc()
        if before is not None or "accepted" in kinds:
            _move(self.videos, None if before is None else before.status, after.status)
        _move(self.provider_in_flight, holder(before), holder(after))
        _move(self.submission_unknown, doubter(before), doubter(after))
        if after.cost_amount is not None and not kinds.isdisjoint(BOUGHT):
            amount = float(after.cost_amount) - float(after.cost_before or 0)
            self.cost(after.provider, after.cost_currency or "USD").inc(amount)
        if after.submitted_at is not None and "submitting" in kinds:
            self.queue_wait(after.provider).observe(max(0.0, after.submitted_at - after.created_at))
        if before is not None and not before.is_terminal:
            self._count(before, after)

    def _count(self, before: Followed, after: Followed) -> None:
        provider = before.provider or after.provider or NOWHERE
        if after.is_terminal and after.completed_at is not None:
            seconds = after.completed_at - after.created_at
            self.video_duration(provider, after.model, after.state).observe(max(0.0, seconds))

    def task_forgotten(self, task: Followed) -> None:
        """A task is not followed here any more: whoever follows it counts its job."""
        _move(self.provider_in_flight, holder(task), None)
        _move(self.submission_unknown, doubter(task), None)

    def submitted(self, provider: str, result: str) -> None:
        """A paid create call came to `result`, one of RESULTS."""
        self.submissions(provider, result).inc()

    def detected(self, provider: str, delay_seconds: float) -> None:
        """A poll found a video done, `delay_seconds` after the last one that did not."""
        self.detection_delay(provider).observe(max(0.0, delay_seconds))

    def provider_missing(self, provider: str, count: int) -> None:
        """Videos of a provider that the configuration does not have wait for it until their deadline."""
        self.log.warning("provider_missing", provider=provider, unfinished_videos=count)

    def outlived(self, before: str, after: str) -> None:
        """The others declared this replica dead while it was away; it goes on under another name."""
        self.log.warning("replica_outlived", before=before, after=after)

    def took_over(self, owner: str, videos: int) -> None:
        """What a replica that is gone had not finished is followed here."""
        self.log.warning("took_over", owner=owner, videos=videos)

    def step_failed(self, video_id: str, error: Exception) -> None:
        """A step of a task ended in a fault of ours; the task is tried again."""
        self.log.error("step_failed", video_id=video_id, error=type(error).__name__, exc_info=error)

    def request_failed(self, request_id: str, error: Exception) -> None:
        """A request met a fault of ours."""
        self.log.error("request_failed", request_id=request_id, error=type(error).__name__, exc_info=error)

    def job_of_nobody(self, video_id: str, provider: str, vendor_task_id: str) -> None:
        """A vendor accepted what was deleted meanwhile: the job is paid, and no row knows it."""
        self.log.error(
            "job_of_nobody", video_id=video_id, provider=provider, vendor_task_id=vendor_task_id
        )

    def storage_failed(self, video_id: str, error: Exception) -> None:
        """The database did not take a save; it is tried until it does."""
        self.log.error("storage_failed", video_id=video_id, error=str(error))

    def file_stored(self, length_bytes: int) -> None:
        """A video's file is stored."""
        self.stored_bytes.inc(length_bytes)
        self.file_copies("stored").inc()

    def file_store_failed(self, video_id: str, error: Exception) -> None:
        """A file could not be stored, or removed; it is tried again."""
        self.file_copies("retried").inc()
        self.log.warning("file_not_stored", video_id=video_id, error=str(error))

    def file_lost(self) -> None:
        """A video's file could not be stored before its link died."""
        self.file_copies("lost").inc()

    def webhook_sent(self, result: str, sent: Delivered, status: int | None, error: str | None) -> None:
        """A try to deliver a webhook was made; `result` is one of WEBHOOKS."""
        self.webhook_deliveries(result).inc()
        write = self.log.warning if result in ("failed", "disabled") else self.log.info
        write(
            "webhook_sent", message_id=sent.id, type=sent.type, endpoint=sent.endpoint or None,
            owner=sent.owner, result=result, status=status, cause=error,
        )

    def webhook_oldest(self, age_seconds: float) -> None:
        """How old the oldest event is that somebody is still to be told of."""
        self.webhook_oldest_pending.set(age_seconds)

    def webhooks_late(self, seconds: float) -> None:
        """For how long the message has been due that is overdue longest."""
        self.webhook_late.set(seconds)

    def configured(self, at: float) -> None:
        """The file that was read last is in force."""
        self.config_is_good.set(1)
        self.config_at.set(at)

    def reloaded(self, at: float, providers: int, paths: Mapping[str, Sequence[str]]) -> None:
        """A new file is in force; `paths` are the keys and tables that it changed, without their values."""
        self.configured(at)
        self.config_reloads("applied").inc()
        self.log.info("reloaded", providers=providers, **paths)

    def reload_refused(self, problems: Sequence[str]) -> None:
        """A new file is not used, and nothing of it: the one before stays in force."""
        self.config_is_good.set(0)
        self.config_reloads("refused").inc()
        self.log.error("reload_refused", problems=problems)

    def violated(self, video_id: str, message: str) -> None:
        """An invariant would have been broken."""
        self.violations.inc()
        self.log.error("invariant_violation", video_id=video_id, message=message)

    def ages(self, unfinished_seconds: Callable[[], float], unstored_seconds: Callable[[], float]) -> None:
        """Have the ages of the oldest unfinished and unstored videos computed at each scrape."""
        self.oldest_unfinished.set_function(unfinished_seconds)
        self.unstored_oldest.set_function(unstored_seconds)

    def exposition(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return self._metrics.exposition()

    def negotiated(self, accept: str) -> tuple[str, bytes]:
        """The metrics as a scraper that sends this `Accept` likes them: content type and text."""
        return self._metrics.negotiated(accept)
