"""What the doctor finds in the file itself: each row makes a healthy configuration ill in one place.

Not held here: places, databases, vendors (`test_places`, `test_stores`, `test_vendors`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final, TypeAlias

import pytest

from gateway.doctor.examination import examine
from gateway.doctor.refusals import told
from gateway.reading import Problem
from tests.doctor.patient import KEY, SECRET, Patient

pytestmark = pytest.mark.anyio

Ill: TypeAlias = Mapping[str, str | None]

_TEAM: Final = {"teams.video.money_per_day": '"20"'}
_EVERY_PRICE: Final = {
    "providers.highway.prices": "{ " + ", ".join(
        f'"kling-v3.0-{slug}" = {{ per_second = "0.1" }}' for slug in ("std-t2v", "4k-t2v", "std-i2v")
    ) + " }",
}
_TWIN: Final = {
    "providers.twin.adapter": '"highwayapi"', "providers.twin.api_key": '{ env = "KEY" }',
}

# The rule, and what makes the doctor find it and nothing else.
REFUSED: Final[list[tuple[str, Ill]]] = [
    ("unknown-name", {"server.lisen": '"127.0.0.1:1"'}),
    ("unknown-name", {"providers.highway.adapter": '"highwayap"', "providers.highway.prices": None}),
    ("secret-variable-missing", {"providers.highway.api_key": '{ env = "KEYS" }'}),
    ("secret-empty", {"providers.highway.api_key": '{ env = "NOTHING" }'}),
    ("secret-file-unreadable", {"providers.highway.api_key": '{ file = "no-such-file" }'}),
    ("secret-written-out", {"providers.highway.api_key": f'"{KEY}"'}),
    ("secret-written-out", {"providers.highway.api_key": '{ env = "sk-live-123" }'}),
    ("secret-has-odd-characters", {"providers.highway.api_key": '{ env = "NEWLINE" }'}),
    ("base-url-missing", {
        "providers.highway.adapter": '"unified"', "providers.highway.base_url": None,
        "providers.highway.prices": None,
    }),
    ("base-url-plain-http", {"providers.highway.base_url": '"http://api.highwayapi.ai"'}),
    ("auth-off-public", {"auth.mode": '"off"', "server.listen": '"0.0.0.0:8080"'}),
    ("default-model-unserved", {"default_model": '"sora-2"'}),
    ("poll-bounds-crossed", {
        "providers.highway.poll_min": '"40s"', "providers.highway.poll_max": '"30s"',
    }),
    ("webhook-secret-malformed", {"webhooks.secrets": '[{ env = "KEY" }]'}),
    ("ca-file-unusable", {"egress.ca_file": '"reelgate.toml"'}),
    ("store-url-malformed", {"store.url": '"mysql://h/d"'}),
    ("no-provider", {
        "providers.highway.adapter": None, "providers.highway.api_key": None,
        "providers.highway.prices": None, "providers.highway.base_url": None,
    }),
    ("value-refused", {"providers.highway.requests_per_minute": "0"}),
    ("value-refused", {"routing.deadline": '"6 hours"'}),
]
SENSELESS: Final[list[tuple[str, Ill]]] = [
    ("key-in-quotes", {"providers.highway.api_key": '{ env = "QUOTED" }'}),
    ("key-placeholder", {"providers.highway.api_key": '{ env = "EXAMPLE" }'}),
    ("providers-share-account", {**_TWIN, "providers.twin.base_url": '"{vendors}/highwayapi"'}),
    ("base-url-has-api-path", {"providers.highway.base_url": '"{vendors}/highwayapi/v3/async"'}),
    ("egress-allows-everything", {"egress.allow": '["0.0.0.0/0"]'}),
    ("egress-allows-itself", {"egress.allow": '["169.254.0.0/16"]'}),
    ("egress-allows-itself", {"egress.allow": '["localhost"]'}),
    ("egress-allows-itself", {"egress.allow": '["::1"]'}),
    ("deadline-short", {"routing.deadline": '"5m"', "providers.highway.unknown_timeout": '"1m"'}),
    ("unknown-timeout-past-deadline", {"providers.highway.unknown_timeout": '"6h"'}),
    ("queue-age-past-deadline", {"providers.highway.max_queue_age": '"1d"'}),
    ("submit-timeout-short", {"providers.highway.submit_timeout": '"3s"'}),
    ("polls-too-often", {"providers.highway.poll_min": '"50ms"'}),
    ("polls-past-links", {"providers.highway.poll_max": '"1h"'}),
    ("records-end-before-files", {"files.records_retention": '"7d"'}),
    ("retention-short", {"files.retention": '"10m"'}),
    ("price-missing", _TEAM),
    ("price-missing", {"routing.strategy": '"cheapest"'}),
    ("price-other-currency", {**_TEAM, **_EVERY_PRICE, "teams.video.currency": '"EUR"'}),
    ("resubmits-unknown", {"providers.highway.on_unknown": '"resubmit"'}),
    ("reruns-unbounded", {"routing.rerun_failed": "1"}),
    ("log-debug", {"log.level": '"debug"'}),
    ("public-url-plain", {"server.public_url": '"http://video.example.com"'}),
    ("public-url-local", {
        "server.listen": '"0.0.0.0:0"', "server.management": '"127.0.0.1:0"',
        "server.public_url": '"http://localhost:8080"',
    }),
    ("metrics-in-public", {"server.listen": '"0.0.0.0:0"'}),
    ("webhook-secret-short", {"webhooks.secrets": '[{ env = "SHORT" }]'}),
    ("weight-without-use", {"providers.highway.weight": "3.0"}),
    ("proxies-too-many", {"server.trusted_proxies": '["128.0.0.0/1"]'}),
    ("retires-soon", {"providers.highway.retire_on": "2026-01-01"}),
    ("retires-soon", {"providers.highway.retire_offerings_on": '{ "kling-v3.0-4k-t2v" = 2026-01-01 }'}),
    ("cors-origin-plain", {"server.cors_origins": '["http://pages.example.com"]'}),
]
FINE: Final[list[Ill]] = [
    {},
    {"egress.allow": '["10.0.0.0/8", "fd00::/8", "video.internal"]'},
    {**_TEAM, **_EVERY_PRICE},
    {"routing.strategy": '"weighted"', "providers.highway.weight": "3.0"},
    {"server.listen": '"0.0.0.0:0"', "server.management": '"127.0.0.1:0"'},
    {"server.trusted_proxies": '["10.0.0.0/8"]'},
    {"providers.highway.retire_on": "2126-01-01"},
    {"files.url": '"off"', "files.records_retention": '"7d"'},
    {
        **_TWIN, "providers.twin.api_key": '{ env = "OTHER" }',
        "providers.twin.base_url": '"{vendors}/myrouter"',
    },
]
ENVIRON: Final = {
    "NOTHING": "", "NEWLINE": f"{KEY}\n", "QUOTED": f'"{KEY}"', "EXAMPLE": "your-api-key-here",
    "SHORT": "whsec_c2hvcnQ=", "OTHER": KEY + "2",
}


def named(rows: list[tuple[str, Ill]]) -> list[str]:
    """A row's rule, with its number, because a rule may have several."""
    return [f"{number} {rule}" for number, (rule, _) in enumerate(rows)]


def make_ill(patient: Patient, ill: Ill) -> None:
    patient.environ.update(ENVIRON)
    patient.set({
        name: value if value is None else value.replace("{vendors}", patient.vendors)
        for name, value in ill.items()
    })


@pytest.mark.parametrize(("rule", "ill"), REFUSED, ids=named(REFUSED))
async def test_what_stops_the_start_is_found(patient: Patient, rule: str, ill: Ill) -> None:
    make_ill(patient, ill)
    found = await patient.examined()
    assert [finding.rule for finding in found] == [rule], found
    assert patient.said == []  # nothing else was looked at


@pytest.mark.parametrize(("rule", "ill"), SENSELESS, ids=named(SENSELESS))
async def test_what_makes_no_sense_is_found_and_nothing_else(patient: Patient, rule: str, ill: Ill) -> None:
    make_ill(patient, ill)
    found = await patient.examined(is_offline=rule != "base-url-has-api-path")
    assert {finding.rule for finding in found} == {rule}, found
    told = json.dumps([finding.told() for finding in found])
    assert KEY not in told
    assert SECRET not in told


@pytest.mark.parametrize("fine", FINE, ids=range(len(FINE)))
async def test_of_what_is_fine_nothing_is_said(patient: Patient, fine: Ill) -> None:
    make_ill(patient, fine)
    assert await patient.examined(is_offline=bool(fine)) == []


async def test_of_several_faults_all_are_told_the_errors_first(patient: Patient) -> None:
    make_ill(patient, {"log.level": '"debug"', "routing.rerun_failed": "1", **_TEAM})
    found = await patient.examined(is_offline=True)
    assert [finding.rule for finding in found] == ["price-missing", "reruns-unbounded", "log-debug"]


@pytest.mark.parametrize(("text", "rule"), [("[server", "not-toml"), (None, "file-unreadable")])
async def test_a_file_that_is_none(patient: Patient, text: str | None, rule: str) -> None:
    patient.text = text
    hear = patient.said.append
    found = await (patient.examined() if text else examine(patient.folder, patient.machine, told=hear))
    assert [finding.rule for finding in found] == [rule]


def test_a_problem_that_no_row_knows_is_told_all_the_same() -> None:
    found = told(Problem("routing.strategy", "is not to be"))
    assert (found.rule, found.where, found.found) == ("value-refused", "routing.strategy", "is not to be")
