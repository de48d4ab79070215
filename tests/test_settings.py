"""The configuration: what a file may say, what each key becomes, and that every mistake is told at once.

Held here: `gateway.settings` through `parse` and `load`, and `deploy/config.example.toml`.
Not held here: what the settings do.
"""

from __future__ import annotations

import pickle
import re
import tomllib
from decimal import Decimal
from ipaddress import ip_network
from pathlib import Path

import msgspec
import pytest
import trustme

import providers
from gateway import settings
from gateway.settings import Address, FilesUrl, Price, Secret, Settings, SettingsError, StoreUrl
from providers.spec import Adapter, AdapterInfo, Offering, VendorDoor

EXAMPLE = Path(__file__).parents[1] / "deploy/config.example.toml"
FOLDER = Path("/etc/reelgate")
CANARY, HOOK = "sk-canary-3f9a", "whsec_c2stY2FuYXJ5LTNmOWE="
ENVIRON = {"KEY": CANARY, "EMPTY": "", "TWO_LINES": f"{CANARY}\nx", "DSN": f"postgresql://u:{CANARY}@db/reel",
           "PROXY": f"http://u:{CANARY}@proxy:3128", "BAD_PROXY": f"ftp://{CANARY}", "HOOK": HOOK}


def never(_door: VendorDoor) -> Adapter:
    raise AssertionError


def offering(slug: str, *, on: bool = True, model: str = "kling-v3") -> Offering:
    return Offering(
        slug=slug, model=model, mode="text-to-video", resolutions=("720p", "1080p"), durations=(5, 10),
        aspect_ratios=("16:9",), source="a test", on_by_default=on, audio=slug != "mute-v1",
    )


def adapter(name: str, base_url: str | None, *offerings: Offering) -> AdapterInfo:
    return AdapterInfo(name=name, title=name, docs=(), base_url=base_url, build=never, offerings=offerings)


ADAPTERS = {info.name: info for info in (
    adapter("alpha", "https://alpha.example", offering("std-v1.0"), offering("pro-v1.0"),
            offering("mute-v1", on=False), offering("old-v1", on=False, model="kling-v1")),
    adapter("homeless", None, offering("std-v2")),
    adapter("shy", "https://shy.example", offering("hidden-v1", on=False)),
)}
ONE = '[providers.a]\nadapter = "alpha"\napi_key = { env = "KEY" }\n'
TWO = ONE.replace("alpha", "alfa") + ONE.replace(".a", ".b") + 'offerings = ["old-v1"]'


def parse(text: str) -> Settings:
    return settings.parse(text, FOLDER, ADAPTERS, ENVIRON)


def problems(text: str) -> dict[str, str]:
    """Message by path; the canary is in none of them."""
    with pytest.raises(SettingsError) as caught:
        parse(text)
    assert CANARY not in f"{caught.value} {caught.value!r} {caught.value.problems}"
    found = {problem.path: problem.message for problem in caught.value.problems}
    assert len(found) == len(caught.value.problems), caught.value
    return found


def test_a_provider_is_all_that_is_needed() -> None:
    read = parse(ONE)
    assert read.default_model == "kling-v3"
    assert read.server == settings.Server(listen=Address("127.0.0.1", 8080), management=None, public_url=None)
    assert read.store.url == StoreUrl(driver="sqlite", path=FOLDER / "reelgate.db")
    assert read.files.url == FilesUrl(kind="file", path=FOLDER / "videos")
    assert (read.files.retention, read.files.records_retention) == (30 * 86400, 90 * 86400)
    assert (read.auth.mode, read.log.level, read.log.format) == ("keys", "info", "auto")
    assert (read.routing.strategy, read.routing.deadline) == ("priority", 6 * 3600)
    assert (read.webhooks.secrets, read.egress) == ((), settings.Egress())
    provider = read.providers["a"]
    assert (provider.name, provider.api_key.reveal()) == ("a", CANARY)
    assert (provider.adapter, provider.base_url) == (ADAPTERS["alpha"], "https://alpha.example")
    assert [offering.slug for offering in provider.offerings] == ["std-v1.0", "pro-v1.0"]
    assert provider.max_in_flight is provider.requests_per_minute is provider.polls_per_minute is None
    assert (provider.on_unknown, provider.unknown_timeout, provider.max_queue_age) == ("hold", 900, None)
    assert (provider.submit_timeout, provider.poll_min, provider.poll_max) == (60, 2, 30)
    assert (provider.weight, provider.failed_is_charged, provider.prices) == (1, None, {})


ALL_WRONG = """
    default_modell = "kling-v3"           # default_modell: did you mean "default_model"?
    logs = { level = "info" }             # logs: did you mean "log"?
    server.lisen = "127.0.0.1:1"          # server.lisen: did you mean "listen"?
    server.listen = "0.0.0.0:80"
    auth.mode = "off"                     # auth.mode: it is 0.0.0.0:80
    routing.strategy = "cheap"            # routing.strategy: did you mean "cheapest"?
    routing.deadline = 3600               # routing.deadline: in quotes
    files.retention = "30 days"           # files.retention: ms s m h d
    egress.allow = ["10.0.0.1/8"]         # egress.allow[0]: did you mean "10.0.0.0/8"?
    [providers.one]                       # providers.one.api_key: is required
    adapter = "alhpa"                     # providers.one.adapter: did you mean "alpha"?
    max_inflight = 3                      # providers.one.max_inflight: did you mean "max_in_flight"?
    [providers.two]
    adapter = "alpha"
    api_key = { env = "NOT_THERE" }       # providers.two.api_key: environment variable NOT_THERE is not set
    offerings = ["pro-v1.0", "std-v1"]    # providers.two.offerings[1]: did you mean "std-v1.0"?
    poll_min = "10s"                      # providers.two.poll_min: longer than poll_max
    poll_max = "5s"
    weight = 0                            # providers.two.weight: > 0
    prices."std-v1.0".per_second = 0.084  # providers.two.prices."std-v1.0".per_second: never a float
    prices."std-v1.0".curency = "USD"     # providers.two.prices."std-v1.0".curency: did you mean "currency"?
    [providers.three]
    adapter = "homeless"                  # providers.three.base_url: has no default
    api_key = "sk-in-the-file"            # providers.three.api_key: { env = "NAME" }
"""


def test_every_mistake_is_told_at_once_with_its_place_and_the_nearest_spelling() -> None:
    expected = dict(re.findall(r"# (\S+): (.+)$", ALL_WRONG, re.MULTILINE))
    found = problems(ALL_WRONG)
    assert found.keys() == expected.keys()
    assert len(found) == 19
    assert {path: message for path, message in found.items() if expected[path] not in message} == {}


STD = 'prices."std-v1.0"'
MISTAKES_IN_A_PROVIDER = [
    ('max_in_flight = "20"', "max_in_flight", "expected `int`, got `str`"),
    ("max_in_flight = true", "max_in_flight", "expected `int`, got `bool`"),
    ("requests_per_minute = 0", "requests_per_minute", ">= 1"), ("weight = nan", "weight", "> 0"),
    ("polls_per_minute = 1_000_001", "polls_per_minute", "<= 1000000"),
    ('on_unknown = "resubmitt"', "on_unknown", 'did you mean "resubmit"?'),
    ('failed_is_charged = "perhaps"', "failed_is_charged", "known: no, unknown, yes"),
    ('poll_min = "9ms"', "poll_min", "must be from 10ms to 1h"),
    ('poll_min = "31s"', "poll_min", "longer than poll_max (30 s)"),
    ('submit_timeout = "61m"', "submit_timeout", "must be from 10ms to 1h"),
    ("offerings = []", "offerings", "nothing is on; name some of std-v1.0"),
    ('offerings = ["std-v1.0", "std-v1.0"]', "offerings", "more than once"),
    ('offerings = ["*", "std-v1.0"]', "offerings[0]", "stands alone"),
    ('offerings = "*"', "offerings", "expected a list"), ("prices = 1", "prices", "expected a table"),
    ("offerings = [1]", "offerings[0]", "unknown offering"), ('name = "b"', "name", "unknown key"),
    (f"{STD} = {{}}", STD, "needs per_second, per_request or both"),
    (f"{STD} = {{ per_second = 1 }}", f"{STD}.per_second", "got `int`"),
    (f'{STD} = {{ per_second = "1", currency = "usd" }}', f"{STD}.currency", "[A-Z]{3}"),
    (f'{STD} = {{ per_second = "1", resolution = "4k" }}', f"{STD}.resolution", "offers 720p, 1080p"),
    (f'{STD} = {{ per_second = "1", resolution = "720" }}', f"{STD}.resolution", 'did you mean "720p"?'),
    (f'{STD} = [{{ per_second = "1" }}, {{ per_second = "2", audio = true }}]', f"{STD}[1]", "never applies"),
    ('prices.mute-v1 = { per_second = "1", audio = true }', "prices.mute-v1.audio", "has no audio"),
    ('prices.mute-v2 = { per_second = "1" }', "prices.mute-v2", 'did you mean "mute-v1"?'),
]
MISTAKES_ELSEWHERE = [
    ("", "providers", "no provider is configured"), ("providers = 1", "providers", "expected a table"),
    ("[providers]\na = 1", "providers.a", "expected a table"),
    (ONE.replace("alpha", "shy"), "providers.a.offerings", "nothing is on; name some of hidden-v1"),
    (ONE.replace("providers.a", "providers.A"), "providers.A", "1 to 32"),
    (ONE.replace("providers.a", 'providers."a b"'), 'providers."a b"', "1 to 32"),
    ("server = 1\n" + ONE, "server", "expected a table, got `int`"),
    ("default_model = 1\n" + ONE, "default_model", "expected `str`, got `int`"),
    ('default_model = "kling-v4"\n' + ONE, "default_model", 'did you mean "kling-v3"?'),
    (ONE + 'offerings = ["old-v1"]', "default_model", "no offering that is on serves it"),
    (TWO, "providers.a.adapter", 'did you mean "alpha"?'),
    (ONE + '[webhooks]\nsecrets = { env = "KEY" }', "webhooks.secrets", "expected a list"),
    (ONE + '[webhooks]\nsecrets = [{ env = "KEY" }]', "webhooks.secrets[0]", 'expected "whsec_" and base64'),
    (ONE + '[log]\nlevel = "INFO"', "log.level", 'did you mean "info"?'),
    (ONE + '[server]\nmanagement = "127.0.0.1:8080"', "server.management", "another address"),
    (ONE + '[egress]\nallow = ["10.0.0.0/33"]', "egress.allow[0]", "expected a network"),
    (ONE + '[egress]\nallow = ["*.internal"]', "egress.allow[0]", "expected a host name"),
    (ONE + f'[egress]\nproxy = "http://u:{CANARY}@proxy"', "egress.proxy", "a password"),
    (ONE + '[egress]\nproxy = { env = "BAD_PROXY" }', "egress.proxy", "expected a URL"),
    (ONE + '[egress]\nca_file = "nowhere.pem"', "egress.ca_file", "nowhere.pem: No such file"),
]


@pytest.mark.parametrize(("text", "path", "part"), MISTAKES_ELSEWHERE + [
    (ONE + written, f"providers.a.{path}", part) for written, path, part in MISTAKES_IN_A_PROVIDER
])
def test_one_mistake_is_one_problem(text: str, path: str, part: str) -> None:
    found = problems(text)
    assert list(found) == [path]
    assert part in found[path]


BAD_TEXTS = {
    "providers.a.unknown_timeout": (
        "", "5", "s", "5 s", "5S", "5w", ".5s", "5.s", "-5s", "1e3s", "5s ", "1h30m", "\u0665s", "0s", "31d",
    ),
    "providers.a.base_url": (
        "", "api.example", "ftp://api.example", "https://", "https:///v1", "https://u:p@api.example",
        "https://@api.example", "https://api.example?x=1", "https://api.example/?", "https://api.example#x",
        "https://api.example:99999", r"https://api.example/a\\b", r"https://api.example\\@evil.example",
        "https://api.example/../x", "https://api.example/%2e%2e", "https://\u00e1pi.example", "https://127.1",
        "https://[::1", "https://[x]", "https://-a.example", r"https://a\tb.example", "http://api.example",
        "http://11.0.0.1", "http://localhost.example", "http://[::ffff:10.0.0.1]",
    ),
    "providers.a.prices.mute-v1.per_second": ("", "-1", "+1", "1e3", "NaN", ".5", "1.", "1,5", "1234567890"),
    "server.management": (
        "8080", ":8080", "127.0.0.1", "127.0.0.1:65536", "127.1:80", "::1:80", "[::1]", "[x]:1", "a b:1",
    ),
    "store.url": ("reel.db", "sqlite:", "sqlite::memory:", "sqlite://x.db", f"mysql://u:{CANARY}@db"),
    "files.url": ("videos", "file:", "file://host/x", "s3://", "s3://B/x", "s3:/bucket/x"),
}


GOOD_TEXTS: dict[str, dict[str, object]] = {
    "providers.a.unknown_timeout": {
        "10ms": 0.01, "0.5s": 0.5, "90s": 90, "1.5h": 5400, "0.1h": 360, "15m": 900, "30d": 2592000,
    },
    "providers.a.poll_min": {"10ms": 0.01, "30s": 30},
    "providers.a.base_url": {
        "https://API.Example:84/v1/": "https://api.example:84/v1", "https://10.0.0.1/": "https://10.0.0.1",
        "http://127.0.0.1:9/a": "http://127.0.0.1:9/a", "http://[::1]:9": "http://[::1]:9",
        "http://10.1.2.3": "http://10.1.2.3", "http://sandbox:9": "http://sandbox:9",
    },
    "store.url": {
        "sqlite:data/x.db": StoreUrl(driver="sqlite", path=FOLDER / "data/x.db"),
        "sqlite:/var/x.db": StoreUrl(driver="sqlite", path=Path("/var/x.db")),
    },
    "files.url": {
        "file:///var/videos": FilesUrl(kind="file", path=Path("/var/videos")),
        "s3://bucket/a/b/": FilesUrl(kind="s3", bucket="bucket", prefix="a/b"),
        "off": FilesUrl(kind="off"),
    },
}


def with_text(path: str, text: str) -> str:
    """A file in which `path` is `text`, and where 10.0.0.0/8 and `sandbox` may be reached."""
    section, _, key = path.rpartition(".")
    header = "" if section == "providers.a" else f"[{section}]\n"
    return f'egress.allow = ["10.0.0.0/8", "Sandbox"]\n{ONE}{header}{key} = "{text}"'


@pytest.mark.parametrize(("path", "text"), [(path, text) for path in BAD_TEXTS for text in BAD_TEXTS[path]])
def test_a_text_of_the_wrong_form_is_one_problem(path: str, text: str) -> None:
    assert list(problems(with_text(path, text))) == [path]


@pytest.mark.parametrize(("path", "text"), [(path, text) for path in GOOD_TEXTS for text in GOOD_TEXTS[path]])
def test_a_text_of_the_right_form_is_read(path: str, text: str) -> None:
    read = parse(with_text(path, text))
    section, _, key = path.rpartition(".")
    place = read.providers["a"] if section == "providers.a" else getattr(read, section)
    assert getattr(place, key) == GOOD_TEXTS[path][text]


@pytest.mark.parametrize(("text", "loopback"), [
    ("127.0.0.1:0", True), ("127.9.9.9:65535", True), ("[::1]:80", True), ("localhost:80", True),
    ("[::]:80", False), ("192.0.2.1:80", False), ("gateway.internal:80", False), ("[::ffff:7f00:1]:1", False),
])
def test_authentication_is_off_on_loopback_only(text: str, loopback: bool) -> None:
    file = with_text("server.listen", text)
    address = parse(file).server.listen
    assert (str(address), address.is_loopback) == (text, loopback)
    assert address.port or parse(f'{file}\nmanagement = "{text}"').server.management == address
    off = f'{file}\n[auth]\nmode = "off"'
    if loopback:
        assert parse(off).auth.mode == "off"
    else:
        assert list(problems(off)) == ["auth.mode"]


def test_secrets_come_from_variables_and_files(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from-a-file\r\n")
    (tmp_path / "hook").write_text("whsec_dHdv\n")
    text = ONE.replace('env = "KEY"', 'file = "key"')
    text += '[webhooks]\nsecrets = [{ env = "HOOK" }, { file = "hook" }]'
    read = settings.parse(text, tmp_path, ADAPTERS, ENVIRON)
    assert read.providers["a"].api_key.reveal() == "from-a-file"
    assert [secret.reveal() for secret in read.webhooks.secrets] == [HOOK, "whsec_dHdv"]


@pytest.mark.parametrize(("value", "part"), [
    (f'"{CANARY}"', "name its place"), ('{ env = "KEY", file = "x" }', "name its place"),
    ("{ env = 1 }", "name of a variable"), (f'{{ env = "{CANARY}" }}', "not a value"),
    ('{ env = "NOT_THERE" }', "NOT_THERE is not set"), ('{ env = "EMPTY" }', "EMPTY is empty"),
    ('{ env = "TWO_LINES" }', "a line break"), ('{ file = "" }', "name of a file"),
    ('{ file = "nowhere" }', "No such file"), ('{ file = "empty" }', "empty is empty"),
    ('{ file = "binary" }', "binary is not UTF-8"), ('{ file = "long" }', "long is longer than"),
])
def test_secrets_that_cannot_be_had_are_told_without_them(tmp_path: Path, value: str, part: str) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(CANARY.encode() + b"\xff")
    (tmp_path / "long").write_text(CANARY * 10_000)
    with pytest.raises(SettingsError) as caught:
        settings.parse(ONE.replace('{ env = "KEY" }', value), tmp_path, ADAPTERS, ENVIRON)
    assert [problem.path for problem in caught.value.problems] == ["providers.a.api_key"]
    assert part in str(caught.value)
    assert CANARY not in str(caught.value)


def test_secrets_do_not_show() -> None:
    read = parse(f'{ONE}[webhooks]\nsecrets = [{{ env = "HOOK" }}]\n[store]\nurl = {{ env = "DSN" }}\n'
                 '[egress]\nproxy = { env = "PROXY" }')
    assert (read.store.url.driver, read.store.url.path) == ("postgresql", None)
    assert (read.store.url.dsn, read.egress.proxy) == (Secret(ENVIRON["DSN"]), Secret(ENVIRON["PROXY"]))
    encoded = msgspec.json.encode([read.webhooks, read.store, read.egress], enc_hook=str)
    assert not any(hidden in f"{read!r} {read} {encoded.decode()}" for hidden in (CANARY, HOOK))
    with pytest.raises(TypeError):
        msgspec.json.encode(read.webhooks)
    with pytest.raises(TypeError):
        pickle.dumps(read.webhooks.secrets[0])
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2


def test_offerings_are_those_written_in_their_order() -> None:
    every = ["std-v1.0", "pro-v1.0", "mute-v1", "old-v1"]
    for written, slugs in ((["*"], every), (["mute-v1", "std-v1.0"], ["mute-v1", "std-v1.0"])):
        read = parse(f"{ONE}offerings = {written}")
        assert [offering.slug for offering in read.providers["a"].offerings] == slugs
    assert parse(f'default_model = "kling-v1"\n{ONE}offerings = ["old-v1"]').default_model == "kling-v1"


def test_egress(tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    text = f'{ONE}[egress]\nallow = ["10.0.0.0/8", "fd00::1", "Video.Internal"]\nca_file = "ca.pem"'
    egress = settings.parse(text, tmp_path, ADAPTERS, ENVIRON).egress
    assert egress.networks == (ip_network("10.0.0.0/8"), ip_network("fd00::1/128"))
    assert egress.allow == (*egress.networks, "video.internal")
    assert egress.ca_file == tmp_path / "ca.pem"
    assert all(map(egress.allows, ("10.9.9.9", "fd00::1", "VIDEO.internal")))
    assert not any(map(egress.allows, ("11.0.0.1", "fd00::2", "x.video.internal", "::ffff:10.0.0.1")))


def test_prices_are_exact_rows_of_which_the_first_that_fits_counts() -> None:
    prices = parse(f"""{ONE}
        [providers.a.prices]
        "pro-v1.0" = {{ per_request = "0.10", currency = "EUR" }}
        "old-v1" = [{{ resolution = "720p", audio = false, per_second = "0.084" }},
                    {{ audio = true, per_second = "0" }}]
    """).providers["a"].prices
    assert prices["pro-v1.0"] == (Price(per_request=Decimal("0.10"), currency="EUR"),)
    first, second = prices["old-v1"]
    assert (str(first.per_second), first.per_request, first.currency) == ("0.084", None, "USD")
    assert first.fits("720p", audio=False)
    assert not first.fits("1080p", audio=False)
    assert not first.fits("720p", audio=True)
    assert second.fits("4k", audio=True)


def test_the_order_of_the_providers_is_kept_and_one_adapter_may_serve_two() -> None:
    text = "".join(ONE.replace("providers.a", f"providers.{name}") for name in ("z", "b-2", "a_1"))
    assert list(parse(text).providers) == ["z", "b-2", "a_1"]


def test_reading_depends_on_its_arguments_only_and_changes_none() -> None:
    environ, adapters = dict(ENVIRON), dict(ADAPTERS)
    first = settings.parse(ONE, FOLDER, adapters, environ)
    assert first == parse(ONE)
    assert (environ, adapters) == (ENVIRON, ADAPTERS)
    assert settings.parse(ONE, FOLDER, adapters, {"KEY": "another"}) != first
    assert first.providers["a"].api_key.reveal() == CANARY


def test_a_file_is_read_with_its_folder_and_blamed_by_its_name(tmp_path: Path) -> None:
    file = tmp_path / "reel.toml"
    file.write_text("\ufeff" + ONE, "utf-8")
    assert settings.load(file, ADAPTERS, ENVIRON).store.url.path == tmp_path / "reelgate.db"
    bad = {b"a = 1\nb = \n": "line 2, column 5: not TOML", b"\xff": "not UTF-8", b"": "providers: no"}
    for written, part in bad.items():
        file.write_bytes(written)
        with pytest.raises(SettingsError, match=r"reel\.toml cannot be used") as caught:
            settings.load(file, ADAPTERS, ENVIRON)
        assert part in str(caught.value)
    with pytest.raises(SettingsError, match="No such file"):
        settings.load(tmp_path / "nowhere.toml", ADAPTERS, ENVIRON)


KEYS = dict.fromkeys(re.findall(r'env = "(\w+)"', EXAMPLE.read_text("utf-8")), HOOK)


def uncommented() -> str:
    """The example with every key that stands behind a `#` switched on."""
    return re.sub(r'(?m)^# (?=\[[a-z]+[].]|[a-z_]+ = |"[\w.-]+" = )', "", EXAMPLE.read_text("utf-8"))


def test_the_example_shows_every_key() -> None:
    tree = tomllib.loads(uncommented())
    highway = tree["providers"]["highway"]
    (one, rows) = highway["prices"].values()
    shown = {Price: {*one}.union(*rows), settings.ProviderSettings: {"name", *highway}}
    shown |= {settings.Team: set(tree["teams"]["video"]), settings.Tracing: set(tree["tracing"])}
    for field in msgspec.structs.fields(Settings):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            shown[field.type] = set(tree[field.name])
    assert len(shown) == 12
    assert set(tree) == set(Settings.__struct_fields__)
    assert {kind: keys for kind, keys in shown.items() if keys != set(kind.__struct_fields__)} == {}


def test_the_example_loads_and_so_does_what_it_shows_which_is_the_defaults(tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "corporate-ca.pem"))
    shown = settings.parse(uncommented(), tmp_path, providers.adapters(), KEYS)
    plain = settings.parse(EXAMPLE.read_text("utf-8"), tmp_path, providers.adapters(), KEYS)
    assert list(plain.providers) == list(shown.providers) == ["highway", "myrouter", "unified"]
    sections = [(getattr(plain, name), getattr(shown, name)) for name in Settings.__struct_fields__[1:7]]
    sections += [(plain.providers["highway"], shown.providers["highway"])]
    for default, other in sections:
        fixed = {key: it for key, it in msgspec.structs.asdict(default).items() if it or it == 0}
        assert {key: getattr(other, key) for key in fixed} == fixed
