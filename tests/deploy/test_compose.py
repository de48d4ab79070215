"""compose.yaml and what it names: its schema, mounts, images, secrets, configuration, and who scrapes whom.

Not held here: that it lives (`test_image`), the boards and the rules (`tests/dashboards`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import tomllib
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit

import jsonschema
import pytest
import yaml

from gateway import __version__
from gateway.app import DRAIN_SECONDS
from gateway.sandbox.settings import SandboxSettings
from gateway.settings import load
from providers import adapters
from tests.dashboards.prometheus import needs_prometheus
from tests.deploy.dockerfile import stages
from tests.deploy.manifests import DEPLOY, ROOT, Json, compose, seconds

SERVICES: dict[str, Json] = compose()["services"]
OURS = [name for name, service in SERVICES.items() if "build" in service]
SANDBOX_URL = "http://sandbox:9000"


def secrets_made(folder: Path) -> Path:
    shutil.copy2(DEPLOY / "make-secrets.sh", folder)
    subprocess.run(["sh", str(folder / "make-secrets.sh")], check=True, stdout=subprocess.DEVNULL)
    return folder / "secrets"


def test_secrets_are_made_beside_their_script(tmp_path: Path) -> None:
    """As it is called from the checkout, also by a shell that looks for folders elsewhere first."""
    for place in ("deploy", "elsewhere/deploy"):
        (tmp_path / place).mkdir(parents=True)
    shutil.copy2(DEPLOY / "make-secrets.sh", tmp_path / "deploy")
    environ = os.environ | {"CDPATH": str(tmp_path / "elsewhere")}
    script = "umask 777; sh deploy/make-secrets.sh"
    subprocess.run(["sh", "-c", script], cwd=tmp_path, check=True, env=environ, stdout=subprocess.DEVNULL)
    assert (tmp_path / "deploy/secrets/store_url").stat().st_size > 0
    assert not (tmp_path / "elsewhere/deploy/secrets").exists()


def test_it_keeps_to_the_schema_of_compose() -> None:
    place = files("check_jsonschema").joinpath("builtin_schemas/vendor/compose-spec.json")
    schema = json.loads(place.read_text("utf-8"))
    validator = jsonschema.validators.validator_for(schema)(schema)
    validator.validate(compose())
    with pytest.raises(jsonschema.ValidationError):
        validator.validate({"services": {"gateway": {"imag": "y"}}})


@pytest.mark.skipif(
    shutil.which("docker") is None
    or subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode != 0,
    reason="needs docker with its compose plugin: `docker compose config` is not run",
)
def test_docker_compose_takes_it(tmp_path: Path) -> None:
    copied = shutil.copytree(DEPLOY, tmp_path / "deploy")
    secrets_made(copied)
    words = ["docker", "compose", "-f", str(copied / "compose.yaml"), "--profile", "sandbox"]
    subprocess.run([*words, "config", "--quiet"], check=True)


def test_it_mounts_only_what_exists() -> None:
    mounts = [mount for service in SERVICES.values() for mount in service.get("volumes", [])]
    assert mounts
    for mount in mounts:
        origin = mount.split(":")[0]
        is_here = origin.startswith("./") and (DEPLOY / origin).exists()
        assert is_here or origin in compose()["volumes"], mount


def test_images_are_pinned_and_stages_exist() -> None:
    known = stages((DEPLOY / "Dockerfile").read_text("utf-8"))
    for name, service in SERVICES.items():
        if name in OURS:
            assert service["build"]["target"] in known, name
            assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file(), name
            assert service["image"].partition(":")[2] == __version__
        else:
            assert re.fullmatch(r"[\w./-]+:v?\d+(\.\d+)+", service["image"]), name


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_few_rights_and_says_how_it_is(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert name in OURS or service["healthcheck"]["test"][0] == "CMD"  # ours say it in their image
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:"), "open on this machine only"


def test_who_waits_for_whom_waits_for_its_health() -> None:
    waits = {name: service["depends_on"] for name, service in SERVICES.items() if "depends_on" in service}
    assert waits.keys() == {"gateway", "grafana"}
    for needed in waits.values():
        assert all(one["condition"] == "service_healthy" for one in needed.values())
    assert waits["gateway"]["sandbox"]["required"] is False  # it is there with its profile only
    assert SERVICES["sandbox"]["profiles"] == ["sandbox"]


def test_only_the_gateway_reaches_the_database() -> None:
    assert compose()["networks"]["database"] == {"internal": True}
    near = [name for name, service in SERVICES.items() if "database" in service.get("networks", [])]
    assert sorted(near) == ["gateway", "postgres"]
    assert SERVICES["postgres"]["networks"] == ["database"]
    assert "ports" not in SERVICES["postgres"]


def test_the_gateway_has_time_to_drain() -> None:
    assert seconds(SERVICES["gateway"]["stop_grace_period"]) >= DRAIN_SECONDS + 5


def test_no_secret_is_in_the_environment() -> None:
    assert "environment" not in SERVICES["gateway"]
    for service in SERVICES.values():
        for name in service.get("environment", {}):
            assert not re.search(r"PASSWORD$|KEY$|SECRET$|TOKEN$", name), name
    named = {name for service in SERVICES.values() for name in service.get("secrets", [])}
    assert named == compose()["secrets"].keys()


def test_secrets_are_made_once_and_never_changed(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir(mode=0o755)
    (tmp_path / "secrets/highwayapi_key").write_text("my-own", "utf-8")
    folder = secrets_made(tmp_path)
    first = {file.name: file.read_text("utf-8") for file in folder.iterdir()}
    assert first.keys() == compose()["secrets"].keys()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o644 for file in folder.iterdir())
    assert first["highwayapi_key"] == "my-own"
    assert first["myrouter_key"] == SandboxSettings().key
    assert re.fullmatch(r"[0-9a-f]{48}", first["postgres_password"])
    assert urlsplit(first["store_url"]).password == first["postgres_password"]
    assert {file.name: file.read_text("utf-8") for file in secrets_made(tmp_path).iterdir()} == first
    for file in compose()["secrets"].values():
        assert (DEPLOY / file["file"]).parent == DEPLOY / "secrets"
    assert "secrets/" in (ROOT / ".gitignore").read_text("utf-8").split()


def test_the_gateway_takes_the_configuration(tmp_path: Path) -> None:
    text = (DEPLOY / "compose.toml").read_text("utf-8")
    named = {Path(place).name for place in re.findall(r'file = "(/run/secrets/\w+)"', text)}
    assert named == set(SERVICES["gateway"]["secrets"])
    file = tmp_path / "reelgate.toml"
    file.write_text(text.replace("/run/secrets", str(secrets_made(tmp_path))), "utf-8")
    settings = load(file, adapters(), {})
    assert settings.providers.keys() == {"highway", "myrouter", "unified"}
    assert settings.store.url.shown == "postgresql://postgres:5432/reelgate"
    assert {one.api_key.reveal() for one in settings.providers.values()} == {SandboxSettings().key}


def test_the_configuration_fits_the_services() -> None:
    settings = tomllib.loads((DEPLOY / "compose.toml").read_text("utf-8"))
    for name, provider in settings["providers"].items():
        assert provider["base_url"].startswith(f"{SANDBOX_URL}/"), name
    assert compose()["networks"]["default"]["ipam"]["config"][0]["subnet"] in settings["egress"]["allow"]
    scraped = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text("utf-8"))["scrape_configs"]
    host, port = scraped[0]["static_configs"][0]["targets"][0].split(":")
    assert host in SERVICES
    assert settings["server"]["listen"].endswith(f":{port}")


def test_grafana_is_provisioned_with_what_is_mounted() -> None:
    source = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text("utf-8"))
    assert source["datasources"][0]["url"] == "http://prometheus:9090"
    boards = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/reelgate.yaml").read_text("utf-8"))
    places = [mount.split(":")[1] for mount in SERVICES["grafana"]["volumes"]]
    assert boards["providers"][0]["options"]["path"] in places
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (DEPLOY / "grafana/boards" / Path(home).name).is_file()


def test_prometheus_has_the_rules_that_its_configuration_names() -> None:
    named = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text("utf-8"))["rule_files"]
    mounts = [mount.split(":") for mount in SERVICES["prometheus"]["volumes"]]
    at = {place: origin for origin, place, *_ in mounts}
    assert named
    assert all(at[f"/etc/prometheus/{name}"] == f"./prometheus/{name}" for name in named)


@needs_prometheus
def test_promtool_takes_the_configuration_of_prometheus() -> None:
    subprocess.run(["promtool", "check", "config", str(DEPLOY / "prometheus/prometheus.yml")], check=True)
