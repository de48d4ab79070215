"""The compose file and what it names: mounts, stages, images, configuration, and who scrapes whom.

Not held here: the boards (`test_boards`), the rules (`test_alerts`), and whether the images build.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any
from urllib.parse import urlsplit

import yaml

from gateway.sandbox.settings import SandboxSettings
from gateway.settings import load
from providers import adapters
from tests.dashboards.prometheus import DEPLOY


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
    return loaded


def test_compose_mounts_only_what_exists() -> None:
    mounts = [mount for service in compose()["services"].values() for mount in service.get("volumes", [])]
    named = set(compose()["volumes"])
    assert mounts
    for mount in mounts:
        origin = mount.split(":")[0]
        assert origin in named or (origin.startswith("./") and (DEPLOY / origin).exists()), mount


def test_compose_pins_images_and_builds_stages_that_exist() -> None:
    stages = set(re.findall(r"^FROM \S+ AS (\S+)", (DEPLOY / "Dockerfile").read_text("utf-8"), re.MULTILINE))
    for name, service in compose()["services"].items():
        if "build" in service:
            assert service["build"]["target"] in stages, name
            assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file(), name
        else:
            assert re.fullmatch(r"[\w./-]+:v?\d+(\.\d+)+", service["image"]), name


def test_dockerfile_copies_only_what_exists() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text("utf-8")
    copies = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE)
    assert copies
    for path in " ".join(copies).split():
        assert (DEPLOY.parent / path).exists(), path


def test_the_gateway_takes_the_configuration_of_compose() -> None:
    environment = compose()["services"]["gateway"]["environment"]
    settings = load(DEPLOY / "compose.toml", adapters(), environment)
    assert settings.providers.keys() == {"highway", "myrouter", "unified"}
    assert set(environment.values()) == {SandboxSettings().key}


def test_compose_configuration_fits_its_services() -> None:
    services = compose()["services"]
    settings = tomllib.loads((DEPLOY / "compose.toml").read_text("utf-8"))
    for name, provider in settings["providers"].items():
        assert urlsplit(provider["base_url"]).hostname in services, name
        assert provider["api_key"]["env"] in services["gateway"]["environment"], name
    subnet = compose()["networks"]["default"]["ipam"]["config"][0]["subnet"]
    assert subnet in settings["egress"]["allow"]
    scraped = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text("utf-8"))["scrape_configs"]
    host, port = scraped[0]["static_configs"][0]["targets"][0].split(":")
    assert host in services
    assert settings["server"]["listen"].endswith(f":{port}")


def test_prometheus_has_the_rules_that_its_configuration_names() -> None:
    named = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text("utf-8"))["rule_files"]
    mounts = [mount.split(":") for mount in compose()["services"]["prometheus"]["volumes"]]
    at = {place: origin for origin, place, *_ in mounts}
    assert named
    assert all(at[f"/etc/prometheus/{name}"] == f"./prometheus/{name}" for name in named)
