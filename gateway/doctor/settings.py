"""What can be seen in the values of a configuration alone: each passes, and together they make no sense.

One generator per area, in `CHECKS`. Not held here: anything that is read, tried or asked.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from ipaddress import IPv4Network, ip_network
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from gateway.doctor.rules import Finding
from gateway.settings import ProviderSettings, Settings, Team
from gateway.values import Network, Secret, is_loopback_host, join

Check: TypeAlias = Callable[[Settings], Iterator[Finding]]

_PLACEHOLDER: Final = re.compile(
    r"change-?me|replace-?me|your[-_ ].*|<.*>|x{3,}|\.{3,}|(my|the|vendor)?[-_]?(api)?[-_]?key"
    r"|placeholder|example|none|null|undefined|\$\{?\w+\}?", re.IGNORECASE,
)
_OWN_PLACES: Final = tuple(map(ip_network, ("127.0.0.0/8", "169.254.0.0/16", "::1/128", "fe80::/10")))
_WIDEST: Final = {4: 8, 6: 7}  # 10.0.0.0/8 and fc00::/7 are the widest private networks there are
_PROXIES_WIDEST: Final = {4: 8, 6: 32}
_DEADLINE_SECONDS: Final = 900.0
_SUBMIT_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.5
_RETENTION_SECONDS: Final = 3600.0
_LINK_SHARE: Final = 0.5  # of a link's life may pass before its end is noticed
_WEBHOOK_BYTES: Final = 24
_NOTICE_SECONDS: Final = 14 * 86_400.0


def _keys(settings: Settings) -> Iterator[Finding]:
    """What is certainly no key, and one that is there twice."""
    seen: dict[tuple[str, Secret], str] = {}
    for name, provider in settings.providers.items():
        key, where = provider.api_key.reveal(), f"providers.{name}.api_key"
        if len(key) > 1 and key[0] == key[-1] and key[0] in "\"'`":
            yield Finding("key-in-quotes", where, f"begins and ends with {key[0]}")
        elif _PLACEHOLDER.fullmatch(key):
            yield Finding("key-placeholder", where, "reads like an example")
        first = seen.setdefault((provider.base_url, provider.api_key), name)
        if first != name:
            yield Finding("providers-share-account", where, f"is the key of providers.{first}")


def _egress(settings: Settings) -> Iterator[Finding]:
    for entry in settings.egress.allow:
        where = "egress.allow"
        if isinstance(entry, str):
            if is_loopback_host(entry):
                yield Finding("egress-allows-itself", where, f"lists {entry}")
        elif entry.prefixlen < _WIDEST[entry.version]:
            yield Finding("egress-allows-everything", where, f"lists {entry}")
        elif any(_overlap(entry, own) for own in _OWN_PLACES):
            yield Finding("egress-allows-itself", where, f"lists {entry}")


def _overlap(one: Network, other: Network) -> bool:
    if isinstance(one, IPv4Network) or isinstance(other, IPv4Network):
        return isinstance(one, IPv4Network) and isinstance(other, IPv4Network) and one.overlaps(other)
    return one.overlaps(other)


def _times(settings: Settings) -> Iterator[Finding]:
    """Spans that cross each other, or that no vendor can keep."""
    deadline = settings.routing.deadline
    if deadline < _DEADLINE_SECONDS:
        yield Finding("deadline-short", "routing.deadline", f"is {deadline:g} s")
    for name, provider in settings.providers.items():
        yield from _times_of(provider, f"providers.{name}", deadline)


def _times_of(provider: ProviderSettings, path: str, deadline: float) -> Iterator[Finding]:
    link_seconds = min(offering.result_link_seconds for offering in provider.offerings)
    age = provider.max_queue_age
    rows = (
        ("unknown_timeout", "unknown-timeout-past-deadline", provider.unknown_timeout,
         provider.unknown_timeout >= deadline),
        ("max_queue_age", "queue-age-past-deadline", age, age is not None and age >= deadline),
        ("submit_timeout", "submit-timeout-short", provider.submit_timeout,
         provider.submit_timeout < _SUBMIT_SECONDS),
        ("poll_min", "polls-too-often", provider.poll_min,
         provider.poll_min < _POLL_SECONDS and provider.polls_per_minute is None),
        ("poll_max", "polls-past-links", provider.poll_max, provider.poll_max > link_seconds * _LINK_SHARE),
    )
    for key, rule, value, is_wrong in rows:
        if is_wrong:
            yield Finding(rule, f"{path}.{key}", f"is {value:g} s")


def _kept(settings: Settings) -> Iterator[Finding]:
    files = settings.files
    if files.url.kind == "off":
        return
    if files.records_retention < files.retention:
        days = f"{files.records_retention / 86400:g} d, files {files.retention / 86400:g} d"
        yield Finding("records-end-before-files", "files.records_retention", f"is {days}")
    if files.retention < _RETENTION_SECONDS:
        yield Finding("retention-short", "files.retention", f"is {files.retention:g} s")
    if files.redirect and files.endpoint and is_loopback_host(urlsplit(files.endpoint).hostname or ""):
        yield Finding("bucket-redirect-local", "files.redirect", f"leads to {files.endpoint}")


def _money(settings: Settings) -> Iterator[Finding]:
    """Budgets that an absent price turns into refusals, and spending without a bound."""
    routing = settings.routing
    needs = [name for name, is_so in (
        ("routing.strategy", routing.strategy == "cheapest"),
        ("routing.rerun_cost_limit", routing.rerun_failed > 0 and routing.rerun_cost_limit is not None),
        *((f"teams.{name}", _has_money(team)) for name, team in settings.teams.items()),
    ) if is_so]  # fmt: skip
    for name, provider in settings.providers.items():
        bare = [offering.slug for offering in provider.offerings if offering.slug not in provider.prices]
        if needs and bare:
            found = f"has none for {', '.join(bare)}, and {needs[0]} needs one"
            yield Finding("price-missing", f"providers.{name}.prices", found)
        if provider.on_unknown == "resubmit":
            yield Finding("resubmits-unknown", f"providers.{name}.on_unknown", 'is "resubmit"')
        if provider.weight != 1 and routing.strategy != "weighted":
            found = f'is {provider.weight:g}, and routing.strategy is "{routing.strategy}"'
            yield Finding("weight-without-use", f"providers.{name}.weight", found)
    if routing.rerun_failed and routing.rerun_cost_limit is None:
        yield Finding("reruns-unbounded", "routing.rerun_failed", f"is {routing.rerun_failed}")
    known = {
        price.currency for provider in settings.providers.values() for rows in provider.prices.values()
        for price in rows
    }
    for name, team in settings.teams.items():
        if known and _has_money(team) and team.currency not in known:
            found = f"is {team.currency}; prices are in {', '.join(sorted(known))}"
            yield Finding("price-other-currency", f"teams.{name}.currency", found)


def _has_money(team: Team) -> bool:
    return team.money_per_day is not None or team.money_per_month is not None


def _seen_from_outside(settings: Settings) -> Iterator[Finding]:
    server = settings.server
    is_public = not server.listen.is_loopback
    if server.public_url is not None:
        url = urlsplit(server.public_url)
        is_local = is_loopback_host(url.hostname or "")
        if is_local and is_public:
            yield Finding("public-url-local", "server.public_url", f"is {server.public_url}")
        elif url.scheme == "http" and not is_local:
            yield Finding("public-url-plain", "server.public_url", f"is {server.public_url}")
    if is_public and server.management is None:
        yield Finding("metrics-in-public", "server.management", f"is not set, and listen is {server.listen}")
    for network in server.trusted_proxies:
        if network.prefixlen < _PROXIES_WIDEST[network.version]:
            yield Finding("proxies-too-many", "server.trusted_proxies", f"lists {network}")
    for origin in server.cors_origins:
        url = urlsplit(origin)
        if url.scheme == "http" and not is_loopback_host(url.hostname or ""):
            yield Finding("cors-origin-plain", "server.cors_origins", f"lists {origin}")


def _words(settings: Settings) -> Iterator[Finding]:
    if settings.log.level == "debug":
        yield Finding("log-debug", "log.level", 'is "debug"')
    for index, secret in enumerate(settings.webhooks.secrets):
        code = secret.reveal().removeprefix("whsec_")
        size = len(b64decode(code + "=" * (-len(code) % 4)))
        if size < _WEBHOOK_BYTES:
            yield Finding("webhook-secret-short", f"webhooks.secrets[{index}]", f"has {size} bytes")


def retiring(settings: Settings, now: float) -> Iterator[Finding]:
    """What takes nothing new any more, or soon; `now` in Unix seconds."""
    soon = datetime.fromtimestamp(now + _NOTICE_SECONDS, UTC).date()
    for name, provider in settings.providers.items():
        days = {"retire_on": provider.retire_on, **provider.retire_offerings_on}
        for what, day in days.items():
            if day is not None and day <= soon:
                key = what if what == "retire_on" else join("retire_offerings_on", what)
                yield Finding("retires-soon", f"providers.{name}.{key}", f"is {day}")


CHECKS: Final[tuple[Check, ...]] = (_keys, _egress, _times, _kept, _money, _seen_from_outside, _words)
