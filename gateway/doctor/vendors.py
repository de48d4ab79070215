"""The way to each provider, and whether it takes its key. Nothing here can cost money.

First a connection and a HEAD without the key, which say what is wrong on the way, and what time it is there;
then the adapter asks for a job that cannot exist, as the gateway does when it looks whether a vendor is back.
Never a create call. By a proxy only the second. Not held here: what the vendors' words mean (the adapters).
"""

from __future__ import annotations

import asyncio
import ssl
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from socket import gaierror
from typing import Final
from urllib.parse import urlsplit

from gateway.assembly import Wires, elapsed
from gateway.core.lease import Lease
from gateway.doctor.aside import aside
from gateway.doctor.case import Case
from gateway.doctor.rules import Finding
from gateway.engine.provider import NO_JOB
from gateway.settings import ProviderSettings
from providers.http import Account, Limits, VendorHTTP
from providers.spec import Adapter, ErrorKind, MakesRefs, Offering, VendorError, VideoRequest
from providers.transport import tls_context

CONNECT_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 10.0
WAY_SECONDS: Final = 15.0  # for all of the way, however slowly it is answered
_SKEW_SECONDS: Final = 30.0
# Of OpenSSL's verification (x509_vfy.h): too early is a clock that is behind, or a certificate of tomorrow.
_CERTIFICATES: Final = {
    9: "vendor-certificate-expired", 10: "vendor-certificate-expired", 62: "vendor-certificate-other-name",
    64: "vendor-certificate-other-name",
}
# What an answer to a question about no job says; kinds that are not here show that all is well.
_ANSWERS: Final[dict[ErrorKind, str]] = {
    "auth": "vendor-key-refused", "permission": "vendor-account-refused",
    "insufficient_credit": "vendor-account-refused", "not_sent": "vendor-unreachable",
    "timeout": "vendor-unreachable", "broken": "vendor-unreachable", "junk": "vendor-not-an-api",
    "not_found": "vendor-not-an-api", "unavailable": "vendor-fails",
    "unsupported": "vendor-not-an-api",  # the question names no model, so it is the path that is not known
}
# Those in which the vendor's own words, whatever they are, show that it is the vendor and knows the key.
_FINE_IN_ITS_WORDS: Final[frozenset[ErrorKind]] = frozenset({"not_found", "unavailable", "junk"})


async def vendors(case: Case) -> list[Finding]:
    """All providers at once."""
    wires = Wires(case.settings, Lease(elapsed, is_shared=False))
    try:
        found = await asyncio.gather(
            *(_examined(case, wires, entry) for entry in case.settings.providers.values())
        )
    finally:
        await wires.close()
    return [finding for findings in found for finding in findings]


async def _examined(case: Case, wires: Wires, entry: ProviderSettings) -> list[Finding]:
    try:
        return await _found(case, wires, entry)
    except Exception as error:  # noqa: BLE001 - an adapter may be anybody's; the other providers are told of
        return [Finding("check-failed", f"providers.{entry.name}", type(error).__name__)]


async def _found(case: Case, wires: Wires, entry: ProviderSettings) -> list[Finding]:
    where = f"providers.{entry.name}.base_url"
    adapter = entry.adapter.build(_door(wires, entry))
    twice = _path_twice(entry, adapter)
    if twice is not None:
        return [Finding("base-url-has-api-path", where, f"ends with {twice}, which the adapter adds")]
    skew = None
    if case.settings.egress.proxy is None:
        try:
            async with asyncio.timeout(WAY_SECONDS):
                ways = await aside(_way, case, entry)
        except TimeoutError:
            ways = Finding("vendor-unreachable", where, f"no whole answer in {WAY_SECONDS:g} s")
        if isinstance(ways, Finding):
            return [ways]
        skew = ways
    found = [] if skew is None or abs(skew) <= _SKEW_SECONDS else [
        Finding("clock-wrong", "machine", f"{entry.name}'s clock is {skew:+.0f} s from this machine's")
    ]
    asked = await _asked(entry, adapter, has_proxy=case.settings.egress.proxy is not None)
    case.told(f"{entry.name}: asked.")
    return found if asked is None else [*found, asked]


def _door(wires: Wires, entry: ProviderSettings) -> VendorHTTP:
    account = Account(
        base_url=entry.base_url, api_key=entry.api_key.reveal(), auth_scheme=entry.adapter.auth_scheme
    )
    limits = Limits(connect_seconds=CONNECT_SECONDS, ask_seconds=ANSWER_SECONDS, may_send=lambda: False)
    return VendorHTTP(
        account, fresh=wires.fresh, pooled=wires.pooled, observe=lambda _call, _how, _seconds: None,
        limits=limits,
    )


def _path_twice(entry: ProviderSettings, adapter: Adapter) -> str | None:
    """The end of base_url with which every path of the adapter begins, too."""
    offering = entry.offerings[0]
    ours = urlsplit(entry.base_url).path.strip("/").split("/")
    its = adapter.call(_request(offering), offering).path.strip("/").split("/")
    ends = [ours[-size:] for size in range(1, min(len(ours), len(its)) + 1) if ours[-size:] == its[:size]]
    return "/" + "/".join(ends[-1]) if ends and ours != [""] else None


def _request(offering: Offering) -> VideoRequest:
    """One that the offering takes; it is written down and never sent."""
    has_image = offering.mode == "image-to-video"
    return VideoRequest(
        model=offering.model, prompt="a fox", resolution=offering.resolutions[0],
        duration=offering.durations[0], image="https://example.com/fox.png" if has_image else None,
        aspect_ratio=offering.aspect_ratios[0] if offering.aspect_ratios and not has_image else None,
    )


def _way(case: Case, entry: ProviderSettings) -> float | Finding | None:
    """By how many seconds the vendor's clock is ahead of ours, None: it does not say; or what is in the way.

    Blocks.
    """
    where = f"providers.{entry.name}.base_url"
    url = urlsplit(entry.base_url)
    host = url.hostname or ""
    try:
        answer = _headed(case, entry)
    except ssl.SSLCertVerificationError as error:
        rule = _CERTIFICATES.get(error.verify_code, "vendor-certificate-untrusted")
        return Finding(rule, where, f"{host}: {error.verify_message}")
    except ssl.SSLError as error:
        return Finding("vendor-no-tls", where, f"{host}: {error.reason}")
    except gaierror as error:
        return Finding("vendor-name-unknown", where, f"{host}: {error.strerror}")
    except (OSError, HTTPException) as error:
        return Finding("vendor-unreachable", where, f"{url.netloc}: {str(error) or type(error).__name__}")
    try:
        said = parsedate_to_datetime(answer.headers["Date"] or "")
    except (TypeError, ValueError):
        return None
    return said.timestamp() - case.machine.now()


def _headed(case: Case, entry: ProviderSettings) -> HTTPResponse:
    """What answers a HEAD without a key."""
    url = urlsplit(entry.base_url)
    host = url.hostname or ""
    if url.scheme == "http":
        connection = HTTPConnection(host, url.port, timeout=CONNECT_SECONDS)
    else:
        tls = tls_context(case.settings.egress.ca_file)
        connection = HTTPSConnection(host, url.port, timeout=CONNECT_SECONDS, context=tls)
    try:
        connection.request("HEAD", f"{url.path}/", headers={"Connection": "close"})
        return connection.getresponse()
    finally:
        connection.close()


async def _asked(entry: ProviderSettings, adapter: Adapter, *, has_proxy: bool) -> Finding | None:
    """Whether the vendor answers a question with this key. Of an adapter without such a question: nothing."""
    if not isinstance(adapter, MakesRefs):
        return None
    try:
        await adapter.poll(adapter.ref_of(NO_JOB))
    except VendorError as error:
        return _understood(entry, error, has_proxy=has_proxy)
    return None


def _understood(entry: ProviderSettings, error: VendorError, *, has_proxy: bool) -> Finding | None:
    path, rule = f"providers.{entry.name}", _ANSWERS.get(error.kind)
    told = f"{'no answer' if error.status is None else error.status}: {error.message}"
    if error.status is not None and 300 <= error.status < 400:
        return Finding("vendor-redirects", f"{path}.base_url", told)
    if rule is None or (error.reason is not None and error.kind in _FINE_IN_ITS_WORDS):
        return None
    if has_proxy and error.kind == "not_sent":
        return Finding("proxy-unreachable", "egress.proxy", told)
    is_about_key = rule in {"vendor-key-refused", "vendor-account-refused"}
    return Finding(rule, f"{path}.{'api_key' if is_about_key else 'base_url'}", told)
