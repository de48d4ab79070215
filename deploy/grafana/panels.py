"""The boards as data: the one source of the JSON, of the pictures, and of "shown in" of the metrics' table.

Overview begins with the golden signals; each board tells one story and leads to the next. Not held here: what
Grafana wants to be told (`boards`), alerts (`deploy/prometheus/alerts.yml`), the metrics (`gateway.metrics`).
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

Unit: TypeAlias = Literal["s", "bytes", "percentunit", "per minute", "currency", "count", "state"]
Kind: TypeAlias = Literal["graph", "number", "states"]

# As a number, the worst of several replicas' words is the greatest.
STATES: Final = ("healthy", "degraded", "paused", "draining", "open")


class Query(msgspec.Struct, frozen=True):
    """One expression, and how what it returns is called: `{{label}}` stands for a label's value."""

    expression: str
    legend: str


class Panel(msgspec.Struct, frozen=True):
    """One panel. `width` of 24; `leads_to` are titles of boards, or of their panels, that say more."""

    title: str
    about: str
    queries: tuple[Query, ...]
    unit: Unit
    kind: Kind = "graph"
    width: int = 12
    leads_to: tuple[tuple[str, str], ...] = ()
    high: float | None = None  # from which on a number is shown in red


class Board(msgspec.Struct, frozen=True):
    """One board: rows of panels under a question, and the variables that its queries use."""

    name: str
    title: str
    variables: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All of them, in order."""
        return tuple(panel for _, panels in self.rows for panel in panels)


_BY: Final = 'provider=~"$provider"'
_BOTH: Final = 'provider=~"$provider", model=~"$model"'
_ENDED: Final = f'reelgate_video_duration_seconds_count{{{_BOTH}, outcome=~"completed|failed"}}'
_DONE: Final = f'reelgate_video_duration_seconds_count{{{_BOTH}, outcome="completed"}}'


def _quantiles(metric: str, matchers: str, by: str, *, quantiles: tuple[float, ...]) -> tuple[Query, ...]:
    """Quantiles of a histogram, by a label or, where that is empty, over all."""
    name = f"{metric}_bucket" + (f"{{{matchers}}}" if matchers else "")
    labels = ", ".join(filter(None, ("le", by)))
    what = " ".join(f"{{{{{label}}}}}" for label in by.split(", ") if label)
    return tuple(
        Query(
            f"histogram_quantile({quantile}, sum by ({labels}) (rate({name}[$__rate_interval])))",
            f"{what} p{quantile * 100:g}".strip(),
        )
        for quantile in quantiles
    )


def _state() -> str:
    """A provider's state as a number, an index of STATES."""
    found = (f'reelgate_provider_state{{{_BY}, state="{word}"}} * {code}' for code, word in enumerate(STATES))
    return f"max by (provider) ({' or '.join(found)})"


OVERVIEW: Final = Board("overview", "Reelgate: Overview", ("provider", "model"), (
    ("Is it well?", (
        Panel(
            "Accepted and finished", "Videos a minute. Finished below accepted for long: a queue is growing.",
            (
                Query("sum(rate(reelgate_videos_accepted_total[$__rate_interval])) * 60", "accepted"),
                Query(
                    "sum by (outcome) (rate(reelgate_video_duration_seconds_count"
                    f"{{{_BOTH}}}[$__rate_interval])) * 60", "{{outcome}}",
                ),
            ),
            "per minute", leads_to=(("providers", "Submissions by result"),),
        ),
        Panel(
            "Success rate", "Completed of those that ended; cancelled ones count for nothing.",
            (Query(f"sum(rate({_DONE}[$__rate_interval])) / sum(rate({_ENDED}[$__rate_interval]))",
                   "success"),),
            "percentunit", leads_to=(("providers", "Submissions by result"), ("providers", "Vendor errors")),
        ),
        Panel(
            "Time to video", "From acceptance to a finished file: half, 95 and 99 of a hundred are faster.",
            _quantiles("reelgate_video_duration_seconds", f'{_BOTH}, outcome="completed"', "",
                       quantiles=(0.5, 0.95, 0.99)),
            "s", leads_to=(("providers", "Queue wait"), ("providers", "Detection delay")),
        ),
        Panel(
            "Oldest unfinished", "How long the oldest unfinished video has waited or rendered.",
            (Query("max(reelgate_oldest_unfinished_seconds)", "oldest"),),
            "s", "number", 6, (("providers", "Queue wait"),), 3600,
        ),
        Panel(
            "Open unknowns",
            "Videos that a vendor may have accepted or not: each may be money, and waits for an operator.",
            (Query(f"sum(reelgate_submission_unknown{{{_BY}}})", "unknown"),),
            "count", "number", 6, (("providers", "Submissions by result"),), 1,
        ),
    )),
    ("Are the vendors well?", (
        Panel(
            "Provider strip", "How each provider is now; with several replicas the worst of their words.",
            (Query(_state(), "{{provider}}"),),
            "state", "number", 24, (("providers", "State"),),
        ),
    )),
))  # fmt: skip

PROVIDERS: Final = Board("providers", "Reelgate: Providers", ("provider", "model"), (
    ("Do they take our work?", (
        Panel(
            "State", "How each provider was; with several replicas the worst of their words.",
            (Query(_state(), "{{provider}}"),),
            "state", "states", 24, (("overview", "Provider strip"),),
        ),
        Panel(
            "In flight against limit", "Jobs that each has or may have, and the most that it may have.",
            (
                Query(f"sum by (provider) (reelgate_provider_in_flight{{{_BY}}})", "{{provider}}"),
                Query(f"max by (provider) (reelgate_provider_in_flight_limit{{{_BY}}}) < Inf",
                      "{{provider}} limit"),
            ),
            "count", leads_to=(("overview", "Oldest unfinished"),),
        ),
        Panel(
            "Submissions by result", "Paid create calls a minute. Unknown: the vendor may have accepted it.",
            (Query(f"sum by (result) (rate(reelgate_submissions_total{{{_BY}}}[$__rate_interval])) * 60",
                   "{{result}}"),),
            "per minute", leads_to=(("money", "Spend by provider"), ("overview", "Open unknowns")),
        ),
        Panel(
            "Queue wait", "From acceptance to the submit, of those that were submitted.",
            _quantiles("reelgate_queue_wait_seconds", _BY, "provider", quantiles=(0.5, 0.95)),
            "s", width=8,
        ),
        Panel(
            "Vendor latency", "How long 95 of a hundred calls took that were answered well.",
            _quantiles("reelgate_vendor_request_duration_seconds", f'{_BY}, outcome="2xx"',
                       "provider, operation", quantiles=(0.95,)),
            "s", width=8,
        ),
        Panel(
            "Vendor errors", "Calls a minute that were answered badly, or not.",
            (Query(
                "sum by (provider, outcome) (rate(reelgate_vendor_request_duration_seconds_count"
                f'{{{_BY}, outcome!="2xx"}}[$__rate_interval])) * 60 > 0', "{{provider}} {{outcome}}",
            ),),
            "per minute", width=8,
        ),
    )),
    ("Do we notice when they are done?", (
        Panel(
            "Polls per finished video", "What a finished video costs in questions.",
            (Query(
                f"sum by (provider) (rate(reelgate_polls_total{{{_BY}}}[$__rate_interval])) / "
                f"(sum by (provider) (rate({_ENDED}[$__rate_interval])) > 0)", "{{provider}}",
            ),),
            "count",
        ),
        Panel(
            "Detection delay", "The longest that a finished render can have waited for our question.",
            _quantiles("reelgate_detection_delay_seconds", _BY, "provider", quantiles=(0.5, 0.95)),
            "s", leads_to=(("overview", "Time to video"),),
        ),
    )),
))  # fmt: skip

MONEY: Final = Board("money", "Reelgate: Money and files", ("provider",), (
    ("What does it cost?", (
        Panel(
            "Spend by provider",
            "Configured price of the jobs that each accepted within an hour, free failures included.",
            (Query(f"sum by (provider, currency) (increase(reelgate_cost_total{{{_BY}}}[1h]))",
                   "{{provider}} {{currency}}"),),
            "currency", leads_to=(("providers", "Submissions by result"),),
        ),
        Panel(
            "Reserved against settled", "Of the videos accepted today (UTC): put aside, and surely owed.",
            (Query(
                "sum by (currency, state) (max by (provider, currency, state) "
                '(reelgate_spending_today{provider=~"$provider|-"}))', "{{state}} {{currency}}",
            ),),
            "currency", leads_to=(("overview", "Open unknowns"),),
        ),
    )),
    ("Do callers get what they paid for?", (
        Panel(
            "Stored bytes", "Bytes of videos that were stored within an hour.",
            (Query("sum(increase(reelgate_files_stored_bytes_total[1h]))", "stored"),), "bytes", width=8,
        ),
        Panel(
            "Unstored oldest", "How long the finished video that waits longest has waited to be stored. "
            "A vendor's link dies: after that the file is lost.",
            (Query("max(reelgate_file_unstored_oldest_seconds)", "oldest"),), "s", width=8,
        ),
        Panel(
            "Webhook backlog", "Age of the oldest event that somebody is still to be told of.",
            (Query("max(reelgate_webhook_oldest_pending_seconds)", "oldest"),), "s", width=8,
        ),
    )),
))  # fmt: skip

BOARDS: Final = (OVERVIEW, PROVIDERS, MONEY)
