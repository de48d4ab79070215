"""What happened to other gateways by what a request could make them run, hold, serve or install.

The rows are those of SECURITY.md, "Incidents elsewhere". Not held here: who gets in (`test_incidents_entry`),
where requests can make a gateway go (`test_incidents_reach`), what is fuzzed.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import threading
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Final
from urllib.parse import quote

import httpx
import pytest

from gateway.assembly import Wires, make_providers
from gateway.core.lease import Lease
from gateway.engine.provider import Provider
from providers.spec import VideoRequest
from tests.api.bodies import png
from tests.security.attempts import TEMPLATES, raw, status_of
from tests.serving import PATIENCE_SECONDS, Call, Json, OddVendor, Served, odd_vendor, read, serving
from tests.test_tidy import Source, dangerous, source

ROOT: Final = Path(__file__).parents[2]
RUFF: Final = ROOT / ".venv/bin/ruff"
EVICTIONS: Final = 10_000
RELOADS: Final = 200  # each makes all providers anew
ODD: Final = """
[providers.odd]
adapter = "myrouter"
base_url = "{url}"
api_key = {{ env = "KEY" }}
offerings = ["*"]
poll_min = "10ms"
poll_max = "20ms"
"""
# A rule of the linter, and what it must find in a file of the gateway.
BANNED: Final = {
    "S608": "def f(name):\n    return f\"select * from keys where name = '{name}'\"",
    "S307": "eval(x)", "S102": "exec(x)", "S301": "import pickle\npickle.loads(x)",
    "S302": "import marshal\nmarshal.loads(x)",
    "S506": "import yaml\nyaml.load(x)", "S602": "import subprocess\nsubprocess.run(x, shell=True)",
    "S605": "import os\nos.system(x)", "S603": "import subprocess\nsubprocess.run([x])",
    "S701": "import jinja2\njinja2.Environment(autoescape=False)",
    "S501": "import httpx\nhttpx.get(x, verify=False)",
}  # fmt: skip
NAMES: Final = (
    "../../../../tmp/escaped.png", "/tmp/escaped.png", "..\\..\\escaped.png",  # noqa: S108
    "%2e%2e%2fescaped.png", "reelgate.db",
    "....//escaped.png", "~/.ssh/authorized_keys", "con.png", "a\tb.png", "-rf", "$(id).png",
    "a" * 250 + ".png",
    "escaped.png;rm -rf x", "\u202egnp.exe", ".", "..",
)  # fmt: skip


@pytest.fixture(scope="module")
def vendor() -> Iterator[OddVendor]:
    with odd_vendor() as started:
        yield started


@pytest.fixture(scope="module")
def served(vendor: OddVendor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder: Path = tmp_path_factory.mktemp("input")
    more = ODD.format(url=vendor.url)
    with serving(folder, auth="keys", more=more, files='url = "file:videos"') as started:
        yield started


@pytest.fixture(scope="module")
def client(served: Served) -> httpx.Client:
    return served.as_caller("somebody", "admin")


HOSTS: Final = (
    "localhost", "127.0.0.1:8080/livez?", "x/v1/version#", "a@b", "[::1", "a b", "a,b", "",
    "../../livez", "x\\y",
    "attacker.example", "127.0.0.1:8080\tx", "{{7*7}}", "a\x00b",
)  # fmt: skip


@pytest.mark.parametrize("target", ["/v1/videos", "http://localhost/v1/videos", "//localhost/v1/videos"])
@pytest.mark.parametrize("host", HOSTS)
def test_host_confusion_lets_nobody_in(served: Served, host: str, target: str) -> None:
    """CVE-2026-42271 with CVE-2026-48710: a test endpoint was reached without a key by a bad Host."""
    request = f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    assert status_of(raw(served, request.encode())) in {0, 400, 401, 404, 429}  # 0: closed without a word


@cache
def product() -> tuple[Source, ...]:
    """The files of the gateway and its adapters."""
    paths = (path for folder in ("gateway", "providers") for path in (ROOT / folder).rglob("*.py"))
    return tuple(source(path.relative_to(ROOT).as_posix(), path.read_text("utf-8")) for path in paths)


def test_no_process_is_started_for_a_request() -> None:
    """CVE-2026-30623: what a request named was started as a command. What serves has no way to start one."""
    begins = re.compile("^(?:import|from) subprocess", re.MULTILINE)
    starting = [file.path for file in product() if begins.search(file.text)]
    assert not [problem for file in product() for problem in dangerous(file)]
    assert starting == ["gateway/sandbox/demo.py"]  # the demo, a program of its own
    assert list(dangerous(source("gateway/api/x.py", "import subprocess")))


@pytest.mark.parametrize("text", TEMPLATES)
def test_no_template_is_filled_in(
    served: Served, client: httpx.Client, vendor: OddVendor, text: str
) -> None:
    """CVE-2024-2952, GHSA-xqmj-j6mv-4862: a template engine ran on what requests held, twice."""
    before = len(vendor.creates)
    asked: Json = {"prompt": text, "negative_prompt": text, "metadata": {text[:64]: text}}
    body = asked | {"provider": "odd", "resolution": "1080p"}
    plan = client.post("/v1/videos/plan", json=body)
    assert plan.status_code == 200
    video = served.started(served.create(client, **body)["id"], client)
    assert (video["prompt"], video["metadata"]) == (text, {text[:64]: text})
    (call,) = (call for call in vendor.creates[before:] if call.body["prompt"] == text)
    assert (call.body["prompt"], call.body["negative_prompt"]) == (text, text)
    refused = client.post("/v1/videos", json={"prompt": "x", "model": text})
    assert refused.status_code == 400
    assert "49" not in read(refused)["detail"]


@pytest.mark.parametrize("rule", BANNED)
def test_no_code_is_made_of_data(rule: str) -> None:
    """CVE-2024-5751: `eval` on a decrypted configuration. The linter refuses it and its kin, and bites."""
    options = ["--quiet", "--output-format", "concise", "--stdin-filename", "gateway/api/made_up.py"]
    done = subprocess.run(
        [RUFF, "check", *options, "-"], input=BANNED[rule], capture_output=True, text=True, check=False,
        cwd=ROOT,
    )
    assert re.search(rf"\b{rule}\b", done.stdout), done.stdout + done.stderr
    allowed = [file.path for file in product() if f"noqa: {rule}" in file.text]
    at_home = {"S608": "gateway/storage/", "S603": "gateway/sandbox/demo.py"}.get(rule, "nowhere")
    assert not [path for path in allowed if not path.startswith(at_home)]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_name_is_no_path(served: Served, client: httpx.Client, name: str) -> None:
    """CVE-2024-4888: `os.remove` with a client's file name."""
    folder = served.settings.store.url.path
    assert folder is not None
    before = files_below(folder.parent)
    form = {"file": (name, png(720, 720), "image/png")}
    answer = client.post("/v1/files", files=form, data={"purpose": name[:64]})
    assert answer.status_code in {200, 400}
    if answer.status_code == 200:
        client.get(f"/v1/files/{answer.json()['id']}/content")
        assert client.delete(f"/v1/files/{answer.json()['id']}").status_code == 200
    for path in ("/v1/files/{}", "/v1/videos/{}/content", "/v1/videos/{}"):
        client.delete(path.format(quote(name, safe="")))
    assert files_below(folder.parent) == before
    assert not Path("/tmp/escaped.png").exists()  # noqa: S108


def files_below(folder: Path) -> list[str]:
    """What is there, but for what a database keeps beside its file, and for videos, which come."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    return sorted(name for name in found if not name.startswith(("reelgate.db-", "videos/")))


def test_videos_are_kept_under_names_of_ours(served: Served, client: httpx.Client) -> None:
    """CVE-2024-4888 again: where a file is kept follows from the video's id alone."""
    asked: Json = {"prompt": "../../x", "metadata": {"filename": "../../x"}, "provider": "highway"}
    video_id = served.completed(client, **asked)["id"]
    served.until(video_id, lambda video: video["stage"] == "stored", client)
    folder = served.settings.files.url.path
    assert folder is not None
    kept = [path.relative_to(folder).as_posix() for path in folder.rglob("*.mp4")]
    assert any(re.fullmatch(rf"[0-9a-f]{{2}}/{video_id}-[0-9a-f]{{8}}\.mp4", name) for name in kept), kept


def test_clients_in_use_are_not_closed(served: Served, vendor: OddVendor) -> None:
    """LiteLLM, 27 February 2026: a cache that was full closed HTTP clients in use, for days."""
    is_over, answer = threading.Event(), vendor.answer

    def slow(call: Call) -> Json:
        is_over.wait(PATIENCE_SECONDS)
        return answer(call)

    async def evict() -> None:
        gateway, wires = served.gateway, Wires(served.settings, Lease(lambda: 0.0))
        wires.lease.sends()
        make = partial(make_providers, served.settings, wires, gateway.telemetry, gateway.fleet)
        try:
            first = next(one for one in make() if one.name == "odd")
            asked = VideoRequest(model="kling-v3", prompt="x", resolution="1080p", duration=5)
            sending = (asked, served.settings.providers["odd"].offerings[0])
            in_use = asyncio.create_task(first.adapter.submit(*sending))
            while not vendor.creates[before:] and not in_use.done():
                await asyncio.sleep(0)
                for _ in range(EVICTIONS // RELOADS):
                    first.adapter.call(*sending)
                made.append(make())
                if len(made) == RELOADS:
                    is_over.set()
            assert (await in_use).vendor_task_id
            assert (await first.adapter.submit(*sending)).vendor_task_id
        finally:
            is_over.set()
            await wires.close()

    made: list[list[Provider]] = []
    before = len(vendor.creates)
    vendor.answer = slow  # type: ignore[method-assign]
    served.run(evict)
    vendor.answer = answer  # type: ignore[method-assign]
    assert len(made) >= RELOADS


FORMS: Final = {
    "no boundary": ("multipart/form-data", b"x"),
    "empty boundary": ("multipart/form-data; boundary=", b"----"),
    "long boundary": (f"multipart/form-data; boundary={'b' * 5_000}", b"x"),
    "dashes": ("multipart/form-data; boundary=-", b"-" * 900_000),
    "boundary without end": ("multipart/form-data; boundary=b", b"--b" + b"\r" * 900_000),
    "parts": (
        "multipart/form-data; boundary=b",
        b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n' * 9_000,
    ),
    "headers": ("multipart/form-data; boundary=b", b"--b\r\n" + b"A: b\r\n" * 100_000),
    "header": ("multipart/form-data; boundary=b", b"--b\r\nA: " + b"b" * 900_000),
    "name": (
        "multipart/form-data; boundary=b",
        b'--b\r\nContent-Disposition: form-data; name="' + b"[a]" * 90_000,
    ),
    "half boundaries": ("multipart/form-data; boundary=bbbbbbbbbbbbbbbb", b"\r\n--bbbbbbbbbbbbbbb" * 40_000),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("path", ["/v1/videos", "/v1/videos/plan", "/v1/files"])
def test_a_form_does_not_stop_the_gateway(
    served: Served, client: httpx.Client, path: str, form: str
) -> None:
    """CVE-2024-8984: a boundary of a form, before any authentication, stopped the service."""
    kind, body = FORMS[form]
    refused = client.post(path, content=body, headers={"Content-Type": kind})
    assert refused.status_code in {400, 413, 415}, refused.text
    unknown = served.client.post(path, content=body[:1_000], headers={"Content-Type": kind})
    assert unknown.status_code in {401, 429}  # its body is not looked at
    assert served.client.get("/livez").status_code == 200


def test_what_is_installed_is_locked_by_hash() -> None:
    """LiteLLM, 24 March 2026: two malicious releases were in the public index for 40 minutes."""
    installs = [
        line for path in ("Makefile", "deploy/Dockerfile", ".ci/run")
        for line in (ROOT / path).read_text("utf-8").splitlines()
        if re.search(r"(?:pip|\$\(UV\))(?: --python \S+)? install", line)
    ]  # fmt: skip
    loose = [line for line in installs if "--require-hashes" not in line and "--no-deps" not in line]
    assert len(installs) >= 6
    # The peer that is measured, or tried as a client, is the newest on purpose, in an environment of its own.
    assert all(re.search(r"\.venv/litellm|\.venv/peers", line) for line in loose), loose


def test_a_page_runs_no_script(served: Served, client: httpx.Client) -> None:
    """CVE-2024-32887, CVE-2023-26141: scripts in a dashboard, until inline scripts were forbidden."""
    text = "<script>alert(1)</script>"
    served.create(client, prompt=text, metadata={text: text})
    pages = [client.get("/docs"), client.get(f"/docs?x={text}"), served.client.get("/docs")]
    for page in pages:
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src" not in policy
        assert text not in page.text
        assert page.headers["x-content-type-options"] == "nosniff"
    for path in ("/v1/videos", f"/{text}", "/v1/videos/x", "/metrics", "/openapi.json"):
        assert "html" not in client.get(path).headers["content-type"]


def test_a_page_loads_nothing(client: httpx.Client) -> None:
    """Portkey's local page: a tag manager, and a script of somebody else's without a pinned version."""
    page = client.get("/docs").text
    assert not re.findall(r"<(?:script|link|img|iframe|object|embed|base|form)\b", page)
    assert not re.findall(r"(?:src|href|action)=[\"']?(?:https?:)?//|@import|url\(", page)
    assert not re.findall(r"\son[a-z]+=", page)
    assert read(client.get("/openapi.json"))["openapi"]
