"""Every metric as data: its name, labels, unit, meaning and buckets; and the registry made from them.

Every series costs whoever scrapes it, so only those have buckets whose quantiles somebody asks for:
`deploy/metrics.md` counts them. Not held here: when a metric changes (`gateway.telemetry`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Final, Literal, TypeAlias, TypeVar

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

Kind: TypeAlias = Literal["counter", "gauge", "histogram"]
M = TypeVar("M", Counter, Gauge, Histogram)
# What names the trace of what is measured just now; None: nothing does.
Current: TypeAlias = Callable[[], Mapping[str, str] | None]

PLAIN: Final = "text/plain; version=0.0.4"
_OPEN: Final = "application/openmetrics-text"
_OPEN_VERSION: Final = "1.0.0"

_RENDER_SECONDS: Final = (5, 10, 20, 30, 60, 90, 120, 180, 300, 600, 1800)
_QUEUE_SECONDS: Final = (0.1, 1, 5, 10, 30, 60, 120, 300, 1800)
_DELAY_SECONDS: Final = (0.5, 1, 2.5, 5, 10, 20, 30, 60, 120)
_VENDOR_SECONDS: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60)
_LAG_SECONDS: Final = (0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_HTTP_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 60)


class Metric(msgspec.Struct, frozen=True):
    """One metric. A counter's name is shown with `_total`.

    `buckets` are a histogram's upper bounds; `timed` (label, start of its value) says which series have them:
    the others have a count and a sum.
    """

    name: str
    kind: Kind
    unit: str
    about: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    timed: tuple[str, str] | None = None

    @property
    def shown(self) -> str:
        """Its name in queries: a histogram's is followed by `_bucket`, `_count` or `_sum`."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


METRICS: Final = (
    Metric(
        "reelgate_http_request_duration_seconds", "histogram", "seconds",
        "Time to answer a request of a caller.", ("route", "method", "status"), _HTTP_SECONDS,
        ("status", "2"),
    ),
    Metric("reelgate_videos_accepted", "counter", "videos", "Videos that were accepted, re-runs included."),
    Metric("reelgate_videos", "gauge", "videos", "Stored videos by status.", ("status",)),
    Metric(
        "reelgate_video_duration_seconds", "histogram", "seconds",
        'From acceptance to the end. Provider "-": ended before any provider had it.',
        ("provider", "model", "outcome"), _RENDER_SECONDS, ("outcome", "completed"),
    ),
    Metric(
        "reelgate_oldest_unfinished_seconds", "gauge", "seconds",
        "Age of the oldest unfinished video, 0 when there is none.",
    ),
    Metric(
        "reelgate_queue_wait_seconds", "histogram", "seconds", "From acceptance to the submit.",
        ("provider",), _QUEUE_SECONDS,
    ),
    Metric(
        "reelgate_submissions", "counter", "calls", "Paid create calls by what is known of them.",
        ("provider", "result"),
    ),
    Metric(
        "reelgate_submission_unknown", "gauge", "videos",
        "Videos that a vendor may or may not have accepted.", ("provider",),
    ),
    Metric(
        "reelgate_vendor_request_duration_seconds", "histogram", "seconds", "Calls to a vendor.",
        ("provider", "operation", "outcome"), _VENDOR_SECONDS, ("outcome", "2xx"),
    ),
    Metric(
        "reelgate_polls", "counter", "polls", "Questions to a vendor by answer.", ("provider", "outcome"),
    ),
    Metric(
        "reelgate_poll_lag_seconds", "histogram", "seconds", "How much later than planned a poll began.",
        (), _LAG_SECONDS,
    ),
    Metric(
        "reelgate_poll_stretch", "gauge", "times",
        "By how much the polls of a provider are further apart than the schedule wishes, because its budget, "
        "or what this process can make, is less; 1: as it wishes.",
        ("provider",),
    ),
    Metric(
        "reelgate_detection_delay_seconds", "histogram", "seconds",
        "From the last poll that found a video unfinished to the one that found it done: "
        "the most it can have waited.",
        ("provider",), _DELAY_SECONDS,
    ),
    Metric(
        "reelgate_unrecognised_status", "counter", "polls", "Polls that met a status word in no table.",
        ("provider",),
    ),
    Metric(
        "reelgate_provider_state", "gauge", "0 or 1", "1 for the state a provider is in.",
        ("provider", "state"),
    ),
    Metric(
        "reelgate_provider_refusing", "gauge", "0 or 1",
        "1 while a provider refuses the key or the account, whatever is asked of it.", ("provider",),
    ),
    Metric(
        "reelgate_provider_in_flight", "gauge", "videos", "Jobs that a provider has, or may have.",
        ("provider",),
    ),
    Metric(
        "reelgate_provider_in_flight_limit", "gauge", "videos",
        "The most jobs that a provider may have at once, over all replicas; +Inf where there is no limit.",
        ("provider",),
    ),
    Metric(
        "reelgate_cost", "counter", "currency",
        "Configured price of every job that a vendor accepted, counted at that moment: a render that fails "
        "for free is not taken off again. What is owed: reelgate_spending_today.",
        ("provider", "currency"),
    ),
    Metric(
        "reelgate_spending_today", "gauge", "currency",
        "Money of the videos accepted since midnight UTC, as the ledger of all replicas has it: put aside "
        "(reserved), or surely owed (settled). What waits counts at the first provider that it may go to.",
        ("provider", "currency", "state"),
    ),
    Metric(
        "reelgate_spending_stopped", "gauge", "0 or 1",
        "1 while an operator has stopped all spending: creates are refused, and nothing is bought.",
    ),
    Metric(
        "reelgate_file_copies", "counter", "tries", "Tries to store a finished video, by what came of them.",
        ("result",),
    ),
    Metric("reelgate_files_stored_bytes", "counter", "bytes", "Bytes of videos that were stored."),
    Metric(
        "reelgate_file_unstored_oldest_seconds", "gauge", "seconds",
        "How long the finished video that waits longest has waited to be stored, 0 when none does.",
    ),
    Metric(
        "reelgate_webhook_deliveries", "counter", "tries", "Tries to deliver a webhook, by what followed.",
        ("result",),
    ),
    Metric(
        "reelgate_webhook_oldest_pending_seconds", "gauge", "seconds",
        "Age of the oldest event that somebody is still to be told of, 0 when there is none.",
    ),
    Metric(
        "reelgate_webhook_late_seconds", "gauge", "seconds",
        "How long the message that is overdue longest has been due and is not under way, 0 when none is.",
    ),
    Metric(
        "reelgate_database_short", "gauge", "0 or 1",
        "1 while the database takes nothing new: creates are refused, and nothing is bought.",
    ),
    Metric(
        "reelgate_invariant_violations", "counter", "transitions",
        "Transitions that would have broken a promise; the task is parked.",
    ),
    Metric(
        "reelgate_config_reloads", "counter", "reloads",
        "Times that the configuration was read anew, by whether it is in force.", ("result",),
    ),
    Metric(
        "reelgate_config_last_reload_successful", "gauge", "0 or 1",
        "1 if the configuration that was read last is in force, 0 if it was refused and an older one is.",
    ),
    Metric(
        "reelgate_config_last_reload_success_timestamp_seconds", "gauge", "Unix seconds",
        "When the configuration that is in force was read.",
    ),
)


class Metrics(Collector):
    """All of METRICS in a registry of their own; as a collector, what is shown of them.

    `current`: each bucket of a histogram remembers the latest trace that fell into it (an exemplar).
    """

    def __init__(self, current: Current | None = None) -> None:
        self.registry = CollectorRegistry()
        self._has_exemplars = current is not None
        histogram = Histogram if current is None else _exemplified(current)
        self._made = {metric.name: _make(metric, self.registry, histogram) for metric in METRICS}
        self._timed = {metric.name: metric.timed for metric in METRICS if metric.timed is not None}

    def one(self, kind: type[M], name: str) -> M:
        """The metric of that name without labels. Raises TypeError where it is of another kind."""
        found = self._made[name]
        if not isinstance(found, kind):
            raise TypeError(f"{name} is a {type(found).__name__}")
        return found

    def by_labels(self, kind: type[M], name: str) -> Callable[..., M]:
        """A metric's series by the values of its labels, remembered: the library builds a key each time."""
        return cache(self.one(kind, name).labels)

    def collect(self) -> Iterator[Family]:
        """The families as they are shown: no buckets where nobody asks for them, no times of creation."""
        for family in self.registry.collect():
            timed = self._timed.get(family.name)
            family.samples = [sample for sample in family.samples if _is_shown(sample, timed)]
            yield family

    def exposition(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self)

    def negotiated(self, accept: str) -> tuple[str, bytes]:
        """Content type and text: where there are exemplars, OpenMetrics for whoever accepts that."""
        if self._has_exemplars and any(_takes_open(some) for some in accept.lower().split(",")):
            text = openmetrics.generate_latest(self)  # type: ignore[no-untyped-call]  # it has no types
            return openmetrics.CONTENT_TYPE_LATEST, text
        return PLAIN, self.exposition()


def _takes_open(media_range: str) -> bool:
    kind, *parameters = (part.strip() for part in media_range.split(";"))
    said = dict(parameter.partition("=")[::2] for parameter in parameters)
    return kind == _OPEN and said.get("version", _OPEN_VERSION) == _OPEN_VERSION and said.get("q") != "0"


def _exemplified(current: Current) -> type[Histogram]:
    class Exemplified(Histogram):
        def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
            found = exemplar or current()
            super().observe(amount, None if found is None else dict(found))

    return Exemplified


def _is_shown(sample: Sample, timed: tuple[str, str] | None) -> bool:
    if sample.name.endswith("_created"):
        return False
    if timed is None or sample.labels.get("le", "+Inf") == "+Inf":
        return True
    label, start = timed
    return sample.labels[label].startswith(start)


def _make(
    metric: Metric, registry: CollectorRegistry, histogram: type[Histogram]
) -> Counter | Gauge | Histogram:
    if metric.kind == "histogram":
        return histogram(
            metric.name, metric.about, metric.labels, buckets=metric.buckets, registry=registry
        )
    kind = Counter if metric.kind == "counter" else Gauge
    return kind(metric.name, metric.about, metric.labels, registry=registry)
