"""What happened to other gateways by destinations that a request could choose. Each a real attempt.

The rows are those of SECURITY.md, "Incidents elsewhere". Not held here: who gets in (`test_incidents_entry`),
what requests can make a gateway run or hold (`test_incidents_input`), the corpus of addresses (`test_ssrf`).
"""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Final

import pytest

from gateway.api.reading import ERRORS_MAX
from tests.security.attempts import OVERRIDES, REDIRECTING, Trap, nested, objects_of, trap
from tests.serving import VENDOR_KEY, Call, Json, OddVendor, Served, odd_vendor, read, serving

ODD: Final = """
[providers.odd]
adapter = "myrouter"
base_url = "{url}"
api_key = {{ env = "KEY" }}
offerings = ["*"]
poll_min = "10ms"
poll_max = "20ms"
[webhooks]
secrets = [{{ file = "hook" }}]
"""
SENT: Final = frozenset({"host", "user-agent", "accept", "accept-encoding", "content-type", "content-length",
                         "authorization", "connection"})  # fmt: skip
ASKED: Final[Json] = {"prompt": "x", "provider": "odd", "resolution": "1080p"}
NO_ROUTES: Final = (
    "/config/update", "/config/yaml", "/v1/config", "/config", "/settings", "/v1/settings", "/reload",
    "/model/new", "/model/update", "/v1/providers", "/v1/providers/highway", "/get/config/callbacks",
    "/v1/models/new", "/admin",
    "/v1/mcp/test/connection", "/health/test_connection", "/utils/test_prompt", "/prompts/test", "/debug",
)  # fmt: skip


@pytest.fixture(scope="module")
def vendor() -> Iterator[OddVendor]:
    with odd_vendor() as started:
        yield started


@pytest.fixture(scope="module")
def served(vendor: OddVendor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder: Path = tmp_path_factory.mktemp("reach")
    (folder / "hook").write_text("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    with serving(folder, more=ODD.format(url=vendor.url)) as started:
        yield started


@pytest.fixture
def inside() -> Iterator[Trap]:
    with trap() as one:
        yield one
        assert one.visitors == 0


def sent_by(
    vendor: OddVendor, served: Served, headers: dict[str, str] | None = None, **body: object
) -> Call:
    """The create call that the vendor got for this order, which no other has the words of."""
    before = len(vendor.creates)
    asked: Json = ASKED | {"prompt": f"order {before}"} | body
    answer = served.client.post("/v1/videos", json=asked, headers=headers)
    assert answer.status_code == 202, answer.text
    served.started(read(answer)["id"])
    (call,) = (call for call in vendor.creates[before:] if call.body["prompt"] == asked["prompt"])
    return call


@pytest.mark.parametrize("field", ["api_base", "base_url", "api_key", "proxy", "host", "endpoint"])
def test_a_destination_of_a_caller(served: Served, vendor: OddVendor, inside: Trap, field: str) -> None:
    """CVE-2024-6587: the caller's own `api_base` had the proxy send its provider's key to an attacker."""
    there, before = f"http://127.0.0.1:{inside.port}", len(vendor.creates)
    for path in ("/v1/videos", "/v1/videos/plan"):
        answer = served.client.post(path, json=ASKED | {field: there})
        assert [error["pointer"] for error in answer.json()["errors"]] == [f"/{field}"]
    for key, value in ((field, there), (f"X-{field.replace('_', '-')}", there)):
        served.client.get("/v1/models", params={key: value}, headers={key.replace("_", "-"): value})
    assert len(vendor.creates) == before


@pytest.mark.parametrize("depth", [1, 2, 5, 30])
@pytest.mark.parametrize("name", ["user_config", "metadata", "input_reference", "shots", "extra_body"])
def test_a_nested_destination(
    served: Served, vendor: OddVendor, inside: Trap, depth: int, name: str
) -> None:
    """PYSEC-2026-4070: the guard looked at the top level only, `user_config` held the destination."""
    hidden: object = {"api_base": f"http://127.0.0.1:{inside.port}", "api_key": "x"}
    for level in range(depth):
        hidden = {"model_list": [hidden]} if level % 2 else {"litellm_params": hidden}
    before = len(vendor.creates)
    for value in (hidden, [hidden]):
        answer = served.client.post("/v1/videos", json={"prompt": "x", "provider": "odd", name: value})
        assert answer.status_code == 400
    assert len(vendor.creates) == before


def test_a_field_that_nobody_listed(served: Served, vendor: OddVendor, inside: Trap) -> None:
    """CVE-2026-84377: the same a third time, a list of forbidden parameters was not complete."""
    document, there = read(served.client.get("/openapi.json")), f"http://127.0.0.1:{inside.port}"
    shapes, tried = document["components"]["schemas"], 0
    before = len(vendor.creates)
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            body = operation.get("requestBody", {}).get("content", {}).get("application/json")
            for at in objects_of(body["schema"], shapes) if body else ():
                url = path.replace("{video_id}", served.create()["id"]) if "video_id" in path else path
                body_of = nested(at, dict.fromkeys(REDIRECTING, there))
                answer = served.client.request(method, url, json=body_of)
                if answer.status_code == 404:  # of a thing that is not there; its body is not looked at
                    continue
                pointers = {error["pointer"] for error in answer.json()["errors"]}
                known = set(shapes_at(body["schema"], shapes, at))
                wanted = {"/".join(["", *map(str, at), field]) for field in REDIRECTING if field not in known}
                assert answer.status_code == 400, (path, at)
                assert wanted <= pointers or len(pointers) >= ERRORS_MAX, (path, at, wanted - pointers)
                tried += len(wanted)
    assert tried > 100
    assert len(vendor.creates) == before


def shapes_at(schema: Json, shapes: Json, at: tuple[str | int, ...]) -> Iterator[str]:
    """The fields of every object that the schema allows at that path."""
    resolved = shapes[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    for choice in resolved.get("anyOf", ()):
        yield from shapes_at(choice, shapes, at)
    if not at:
        yield from resolved.get("properties", ())
    elif isinstance(at[0], int) and "items" in resolved:
        yield from shapes_at(resolved["items"], shapes, at[1:])
    elif at[0] in resolved.get("properties", ()):
        yield from shapes_at(resolved["properties"][at[0]], shapes, at[1:])


def test_headers_towards_vendors(served: Served, vendor: OddVendor) -> None:
    """CVE-2026-75871, CVE-2026-19889: Host, or metadata of a model, led calls with credentials elsewhere."""
    call = sent_by(vendor, served, dict(OVERRIDES), metadata={"Host": "attacker.example", "api_base": "x"})
    assert call.headers.keys() == SENT
    assert call.headers["host"] == vendor.url.removeprefix("http://")
    assert call.headers["authorization"] == f"Bearer {VENDOR_KEY}"
    assert "attacker" not in f"{call.headers} {call.path} {call.body}"
    assert "stolen" not in f"{call.headers} {call.path} {call.body}"


def test_a_redirect_inwards(served: Served, vendor: OddVendor, inside: Trap) -> None:
    """GHSA-9f46-w24h-69w4, GO-2026-5652: a redirect, and later 0.0.0.0, led past the check of addresses."""
    places = ("0.0.0.0", "127.0.0.2", "localhost", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1")  # noqa: S104
    for place in places:
        for status in (301, 302, 303, 307, 308):
            vendor.send_file = redirecting(status, f"http://{place}:{inside.port}/latest/meta-data")
            answer = served.client.post("/v1/videos", json=ASKED)
            video = served.until(answer.json()["id"], lambda video: video["status"] == "completed")
            assert served.client.get(f"/v1/videos/{video['id']}/content").status_code >= 400, place


def redirecting(status: int, to: str) -> Any:  # noqa: ANN401 - a handler
    """An answer to a download that sends elsewhere."""

    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Location", to)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return send


def test_an_image_is_not_fetched(served: Served, vendor: OddVendor, inside: Trap) -> None:
    """one-api issue 2388: `image_url` was fetched without a look, the metadata service for any user."""
    for host in ("127.0.0.1", "0.0.0.0", "localhost", "[::1]", "169.254.169.254", "2130706433"):  # noqa: S104
        url = f"http://{host}:{inside.port}/latest/meta-data/"
        for body in ({"image": url}, {"image": "https://a.example/a.png", "end_image": url},
                     {"input_reference": {"image_url": url}}):  # fmt: skip
            asked = {"prompt": "x", "provider": "odd"} | body
            assert served.client.post("/v1/videos", json=asked).status_code in {202, 400, 422}
            served.client.post("/v1/videos/plan", json=asked)


def test_an_api_base_anywhere_else(served: Served, vendor: OddVendor, inside: Trap) -> None:
    """GHSA-h7x2-h6g9-p789: SSRF by `api_base`, where no field of a body was its only way in."""
    there = f"http://127.0.0.1:{inside.port}"
    for provider in (there, f"odd@{there}", f"odd#{there}", f"odd/{there}", f"openai/{there}"):
        for field in ("provider", "model"):
            asked = {"prompt": "x", field: provider}
            assert served.client.post("/v1/videos", json=asked).status_code == 400
    labels = {"api_base": there}
    call = sent_by(vendor, served, prompt=f"api_base={there}", metadata=labels, negative_prompt=there)
    assert call.headers["host"] == vendor.url.removeprefix("http://")


@pytest.mark.parametrize(
    "name",
    ["env:KEY", "env:PATH", "os.environ/KEY", "${KEY}", "$KEY", "%KEY%", "file:///etc/passwd", "{{env.KEY}}"],
)
def test_a_variable_of_the_environment(served: Served, vendor: OddVendor, name: str) -> None:
    """CVE-2026-56259: `env:NAME` in a request read the server's environment."""
    call = sent_by(vendor, served, prompt=name, negative_prompt=name, metadata={"a": name})
    assert (call.body["prompt"], call.body["negative_prompt"]) == (name, name)
    for field in ("prompt", "model", "provider", "image", "webhook_url"):
        for value in (name, {"env": "KEY"}, {"file": "/etc/passwd"}):
            if field == "prompt" and value == name:
                continue
            answer = served.client.post("/v1/videos", json={"prompt": "x"} | {field: value})
            assert answer.status_code == 400, (field, value)
            assert VENDOR_KEY not in answer.text
            assert "root:" not in answer.text


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("path", NO_ROUTES)
def test_a_configuration_is_not_written_by_http(served: Served, method: str, path: str) -> None:
    """CVE-2026-35029: any user could update the configuration, and read files and run code by it."""
    before = served.gateway.fleet.settings
    body = {"environment_variables": {"KEY": "x"}, "providers": {"highway": {"base_url": "http://a.example"}}}
    answer = served.client.request(method, path, json=body)
    assert answer.status_code in {404, 405}
    assert served.gateway.fleet.settings is before


def test_no_side_endpoint_passes_the_policy_by(served: Served, inside: Trap) -> None:
    """CVE-2026-56348: a rule of allowed domains was in the handlers, and one endpoint beside had none."""
    for place in ("127.0.0.1", "0.0.0.0", "10.0.0.1", "169.254.169.254", "[::1]", "localhost"):  # noqa: S104
        url = f"https://{place}:{inside.port}/"
        made = served.client.post("/v1/webhook_endpoints", json={"url": url})
        if made.status_code < 300:  # a name: it is judged where it is connected to
            endpoint = f"/v1/webhook_endpoints/{made.json()['id']}"
            assert served.client.post(f"{endpoint}/test").status_code == 202
            tries: list[Json] = []
            while not tries:
                tries = served.client.get(f"{endpoint}/deliveries").json()["data"][0]["tries"]
            assert tries[0]["status"] is None
            assert served.client.delete(endpoint).status_code < 300
        served.client.post("/v1/videos", json={"prompt": "x", "webhook_url": url})


@pytest.mark.parametrize("name", ["os.system", "tests.security:x", "__import__('os')", "builtins.eval"])
def test_no_callable_is_named_by_a_request(served: Served, name: str) -> None:
    """CVE-2024-6825: hooks named in what a request could reach were imported and called."""
    for field in ("model", "provider", "post_call_rules", "callbacks", "webhook_url", "resolution"):
        assert served.client.post("/v1/videos", json={"prompt": "x", field: name}).status_code == 400
    assert served.client.post(f"/v1/providers/{name}/pause").status_code == 404
    answer = served.client.get("/v1/models", params={"callback": name})
    assert name not in answer.text
