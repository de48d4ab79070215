"""The tables `[providers.NAME]`: accounts at vendors, their limits, prices, shares and last days.

Held here: their keys with defaults and ranges, what their adapter fills in, the rules between the keys of one
provider. Not held here: other sections and the rules between sections (`gateway.settings`), what an adapter
offers (data).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

from msgspec import UNSET, Meta, Struct

from gateway import values as read
from gateway.reading import Pass, all_known
from gateway.values import Marks, Secret, join, unknown
from providers.spec import AdapterInfo, Charged, Offering, Resolution

NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}")  # a provider's becomes a metric label and a part of URLs
NAMED: Final = "name is 1 to 32 of a-z 0-9 _ - and begins with a letter"

Count: TypeAlias = Annotated[int, Meta(ge=1, le=1_000_000)]


class Price(Struct, frozen=True, kw_only=True):
    """One row of a price list: what it is for (absent: any) and what that costs; two amounts are added."""

    resolution: Resolution | None = None
    audio: bool | None = None
    per_second: Annotated[Decimal, read.amount] | None = None
    per_request: Annotated[Decimal, read.amount] | None = None
    currency: Annotated[str, Meta(pattern="^[A-Z]{3}$")] = "USD"

    def fits(self, resolution: Resolution | None, audio: bool | None) -> bool:
        """Whether this row is for that resolution and sound. None asks for a row that is for any."""
        return self.resolution in (None, resolution) and self.audio in (None, audio)


class ProviderSettings(Struct, frozen=True, kw_only=True):
    """One account at one vendor. Limits are 1..1,000,000 and absent = none; durations in seconds, from 10 ms.

    `offerings` are those that are on, as written, else the adapter's. Of the `prices` of a slug the first row
    that fits applies; none: unknown, not 0. `failed_is_charged` None: as the offering. `canary`: this share
    (0..1) of what it could take goes there first, the rest only where nobody else can. From `retire_on`,
    midnight UTC, it takes nothing new; `retire_offerings_on` says the same of single offerings.
    """

    name: str
    adapter: Annotated[AdapterInfo, _adapter]
    api_key: Annotated[Secret, read.header_secret]
    base_url: Annotated[str, read.http_url] = ""
    offerings: tuple[Annotated[Offering, _offering], ...] = ()
    max_in_flight: Count | None = None
    requests_per_minute: Count | None = None
    polls_per_minute: Count | None = None
    weight: Annotated[float, Meta(gt=0, le=1_000_000)] = 1.0
    canary: Annotated[float, Meta(ge=0, le=1)] | None = None
    retire_on: Annotated[date, read.day] | None = None
    retire_offerings_on: dict[str, Annotated[date, read.day]] = {}
    on_unknown: Literal["hold", "fail", "resubmit"] = "hold"
    unknown_timeout: Annotated[float, read.duration("10ms", "30d")] = 15 * 60.0
    submit_timeout: Annotated[float, read.duration("10ms", "1h")] = 60.0
    max_queue_age: Annotated[float, read.duration("10ms", "30d")] | None = None
    poll_min: Annotated[float, read.duration("10ms", "1h")] = 2.0
    poll_max: Annotated[float, read.duration("10ms", "1h")] = 30.0
    failed_is_charged: Charged | None = None
    prices: dict[str, tuple[Price, ...]] = {}

    def retires_on(self, slug: str) -> date | None:
        """The day from which this offering takes nothing new here; None: there is none."""
        days = (self.retire_on, self.retire_offerings_on.get(slug))
        return min((day for day in days if day is not None), default=None)


class ProviderPass(Pass):
    """One pass over one file; it knows the adapters, and that of the provider that is being read."""

    def __init__(
        self, folder: Path, adapters: Mapping[str, AdapterInfo], environ: Mapping[str, str],
        marks: Marks | None = None,
    ) -> None:
        super().__init__(folder, environ, marks)
        self.adapters = adapters
        self.adapter: AdapterInfo | None = None


def _adapter(reading: ProviderPass, raw: object) -> AdapterInfo:
    """The name of an adapter."""
    if not isinstance(raw, str) or raw not in reading.adapters:
        raise read.ReadError(unknown("adapter", raw, reading.adapters))
    return reading.adapters[raw]


def _offering(reading: ProviderPass, raw: object) -> object:
    """The slug of an offering; UNSET, without a problem of its own, where the adapter is not known."""
    if reading.adapter is None:
        return UNSET
    by_slug = {offering.slug: offering for offering in reading.adapter.offerings}
    if not isinstance(raw, str) or raw not in by_slug:
        raise read.ReadError(unknown("offering", raw, by_slug) + (': "*" stands alone' if raw == "*" else ""))
    return by_slug[raw]


def read_providers(reading: ProviderPass, raw: object) -> dict[str, ProviderSettings]:
    """The table `[providers]`: every account by its name, UNSET in it what could not be read."""
    return {name: _provider(reading, name, table) for name, table in read.table(raw).items()}


def _provider(reading: ProviderPass, name: str, raw: object) -> ProviderSettings:
    path = join("providers", name)
    if not NAME.fullmatch(name):
        reading.wrong(path, f"a provider's {NAMED}")
    word = raw.get("adapter") if isinstance(raw, dict) else None
    reading.adapter = adapter = reading.adapters.get(word) if isinstance(word, str) else None
    if adapter is not None and isinstance(raw, dict):
        raw = _with_defaults_of(adapter) | raw
        if raw["offerings"] == ["*"]:
            raw["offerings"] = [offering.slug for offering in adapter.offerings]
    provider = reading.struct(ProviderSettings, raw, path, name=name)
    if adapter is not None:
        _check_provider(reading, provider, adapter, path)
    return provider


def _with_defaults_of(adapter: AdapterInfo) -> dict[str, object]:
    on = [offering.slug for offering in adapter.offerings if offering.on_by_default]
    return {"offerings": on} | ({"base_url": adapter.base_url} if adapter.base_url else {})


def _check_provider(
    reading: ProviderPass, provider: ProviderSettings, adapter: AdapterInfo, path: str
) -> None:
    """The rules between the keys of one provider."""
    slugs = [offering.slug for offering in adapter.offerings]
    if provider.base_url == "":
        reading.wrong(f"{path}.base_url", f"is required: adapter {adapter.name} has no default")
    if provider.offerings == ():
        reading.wrong(f"{path}.offerings", f"nothing is on; name some of {', '.join(slugs)}")
    if all_known(provider.offerings):
        on = [offering.slug for offering in provider.offerings]
        for slug in sorted({slug for slug in on if on.count(slug) > 1}):
            reading.wrong(f"{path}.offerings", f"{slug} is there more than once")
        for slug in provider.retire_offerings_on if all_known(provider.retire_offerings_on) else ():
            if slug not in on:
                here = join(f"{path}.retire_offerings_on", slug)
                reading.wrong(here, unknown("offering that is on", slug, on))
    if all_known(provider.poll_min, provider.poll_max) and provider.poll_min > provider.poll_max:
        reading.wrong(f"{path}.poll_min", f"is longer than poll_max ({provider.poll_max:g} s)")
    if all_known(provider.prices):
        for slug, rows in provider.prices.items():
            here = join(f"{path}.prices", slug)
            if slug not in slugs:
                reading.wrong(here, unknown("offering", slug, slugs) + " (a key with dots needs quotes)")
            elif all_known(rows):
                _check_prices(reading, adapter.offerings[slugs.index(slug)], rows, here)


def _check_prices(reading: ProviderPass, offering: Offering, rows: tuple[Price, ...], path: str) -> None:
    """Every row names an amount, can apply to the offering, and is not hidden by an earlier one."""
    for index, row in enumerate(rows):
        here = path if len(rows) == 1 else f"{path}[{index}]"
        if row.per_second is None and row.per_request is None:
            reading.wrong(here, "needs per_second, per_request or both")
        if isinstance(row.resolution, str) and row.resolution not in offering.resolutions:
            reading.wrong(f"{here}.resolution", f"{offering.slug} offers {', '.join(offering.resolutions)}")
        if row.audio is True and not offering.audio:
            reading.wrong(f"{here}.audio", f"{offering.slug} has no audio")
        if any(earlier.fits(row.resolution, row.audio) for earlier in rows[:index]):
            reading.wrong(here, "never applies: an earlier row is for the same, and the first counts")


def check_shares(reading: Pass, providers: Iterable[ProviderSettings]) -> None:
    """All canaries together may have no more than everything."""
    shares = [one.canary for one in providers if all_known(one.canary) and one.canary]
    if sum(map(Decimal, map(str, shares))) > 1:
        reading.wrong("providers", f"the canary shares add up to {sum(shares):g}; all there is, is 1")
