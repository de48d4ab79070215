"""The overlays, rendered by kustomize: schemas, probes, times, rights, who may talk to whom, the rules.

Not held here: that a pod of them lives (`test_image`). Not run anywhere here: a cluster.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from deploy.kubernetes import rules
from gateway import __version__
from gateway.api.application import MANAGEMENT
from gateway.app import DRAIN_SECONDS
from gateway.metrics import METRICS
from gateway.settings import Settings, load
from gateway.telemetry import PROVIDER_STATES
from providers import adapters
from tests.dashboards.prometheus import needs_prometheus
from tests.deploy.manifests import DEPLOY, KUBERNETES, MEMORY_BYTES, OVERLAYS, Json, one, rendered, size

LEAST_VERSION = "1.30"  # the sleep of preStop
NEWEST_VERSION = "1.37"
SCHEMAS = Path(__file__).with_name("schemas")
SECRETS = "/run/secrets/reelgate"
BOTH = {
    "Namespace", "ServiceAccount", "ConfigMap", "Service", "Deployment", "NetworkPolicy", "ServiceMonitor",
    "PrometheusRule",
}
ONLY = {"sqlite": {"PersistentVolumeClaim"}, "postgres": {"PodDisruptionBudget", "HorizontalPodAutoscaler"}}
overlays = pytest.mark.parametrize("overlay", OVERLAYS)


def pod(overlay: str) -> Json:
    found: Json = one(overlay, "Deployment")["spec"]["template"]["spec"]
    return found


def container(overlay: str) -> Json:
    (found,) = pod(overlay)["containers"]
    return dict(found)


def autoscaling() -> Json:
    found: Json = one("postgres", "PrometheusRule", "reelgate-autoscaling")["spec"]
    return found


def configuration(overlay: str, folder: Path) -> Settings:
    """As the program reads it, every key being there."""
    text = one(overlay, "ConfigMap")["data"]["reelgate.toml"]
    for name in re.findall(rf'file = "{SECRETS}/(\w+)"', text):
        value = "postgresql://u:p@db.internal/reelgate" if name == "store_url" else "a-key"
        (folder / name).write_text(value, "utf-8")
    file = folder / "reelgate.toml"
    file.write_text(text.replace(SECRETS, str(folder)), "utf-8")
    return load(file, adapters(), {})


@overlays
@pytest.mark.parametrize("version", [LEAST_VERSION, NEWEST_VERSION])
def test_every_object_keeps_to_its_schema(overlay: str, version: str) -> None:
    for found in rendered(overlay):
        if found["apiVersion"].startswith("monitoring.coreos.com/"):
            schema = json.loads((SCHEMAS / f"{found['kind']}.json").read_text("utf-8"))
            jsonschema.validate(found, schema)
        else:
            kubernetes_validate.validate(found, version, strict=True)


def test_the_schemas_find_a_misspelt_word() -> None:
    wrong = one("sqlite", "Deployment") | {"spce": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, NEWEST_VERSION, strict=True)
    for kind in ("ServiceMonitor", "PrometheusRule"):
        spec = one("sqlite", kind)["spec"] | {"x": 1}
        schema = json.loads((SCHEMAS / f"{kind}.json").read_text("utf-8"))
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(one("sqlite", kind) | {"spec": spec}, schema)


@overlays
def test_an_overlay_has_all_that_it_should(overlay: str) -> None:
    kinds = {found["kind"] for found in rendered(overlay)}
    assert kinds == BOTH | ONLY[overlay]
    for found in rendered(overlay):
        if found["kind"] != "Namespace":
            assert found["metadata"]["namespace"] == "reelgate", found["metadata"]


@overlays
def test_the_program_takes_the_configuration(overlay: str, tmp_path: Path) -> None:
    settings = configuration(overlay, tmp_path)
    ports = {port["name"]: port["containerPort"] for port in container(overlay)["ports"]}
    assert settings.server.management is not None
    assert ports == {"http": settings.server.listen.port, "management": settings.server.management.port}
    assert not settings.server.listen.is_loopback
    assert not settings.server.management.is_loopback
    assert settings.store.url.driver == {"sqlite": "sqlite", "postgres": "postgresql"}[overlay]
    assert settings.files.url.kind == {"sqlite": "file", "postgres": "s3"}[overlay]


@overlays
def test_a_change_of_the_configuration_reaches_a_running_pod(overlay: str) -> None:
    """The name has no hash, and it is a folder that is mounted: neither restarts anything or stays behind."""
    assert one(overlay, "ConfigMap")["metadata"]["name"] == "reelgate"
    (mount,) = (mount for mount in container(overlay)["volumeMounts"] if mount["name"] == "config")
    assert "subPath" not in mount
    assert container(overlay)["args"][-1] == f"{mount['mountPath']}/reelgate.toml"


@overlays
def test_probes_ask_what_the_management_port_answers(overlay: str) -> None:
    found = container(overlay)
    probes = {name: found[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert {probe["port"] for probe in probes.values()} == {"management"}
    assert {probe["path"] for probe in probes.values()} <= MANAGEMENT
    assert probes["liveness"]["path"] == "/livez", "depends on nothing"
    assert probes["readiness"]["path"] == probes["startup"]["path"] == "/readyz"


@overlays
def test_there_is_time_to_drain(overlay: str) -> None:
    pause = container(overlay)["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pause > 0
    assert pod(overlay)["terminationGracePeriodSeconds"] >= pause + DRAIN_SECONDS + 10


@overlays
def test_a_pod_keeps_to_the_strictest_profile(overlay: str) -> None:
    labels = one(overlay, "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    spec, inner = pod(overlay), container(overlay)["securityContext"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 10001
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert inner == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }
    assert spec["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    assert not any("hostPath" in volume for volume in spec["volumes"])
    assert size(container(overlay)["resources"]["limits"]["memory"]) > MEMORY_BYTES
    assert container(overlay)["image"] == f"reelgate:{__version__}"


def test_two_never_have_one_file() -> None:
    assert one("sqlite", "Deployment")["spec"]["replicas"] == 1
    assert one("sqlite", "Deployment")["spec"]["strategy"] == {"type": "Recreate"}
    assert one("sqlite", "PersistentVolumeClaim")["spec"]["accessModes"] == ["ReadWriteOncePod"]
    (data,) = (volume for volume in pod("sqlite")["volumes"] if volume["name"] == "data")
    assert data == {"name": "data", "persistentVolumeClaim": {"claimName": "reelgate"}}


def test_many_come_and_go_one_by_one() -> None:
    deployment = one("postgres", "Deployment")["spec"]
    assert "replicas" not in deployment, "they are the autoscaler's"
    assert deployment["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert one("postgres", "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    spread = {each["topologyKey"] for each in pod("postgres")["topologySpreadConstraints"]}
    assert spread == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}
    scaler = one("postgres", "HorizontalPodAutoscaler")["spec"]
    assert scaler["scaleTargetRef"]["name"] == "reelgate"
    assert 2 <= scaler["minReplicas"] < scaler["maxReplicas"]
    (external,) = (each["external"] for each in scaler["metrics"] if each["type"] == "External")
    metric = external["metric"]["name"]
    assert metric == autoscaling()["groups"][0]["rules"][0]["record"]
    assert metric in (KUBERNETES / "README.md").read_text("utf-8")


@overlays
def test_everything_finds_the_pods(overlay: str) -> None:
    """By selectors that are written out; kustomize's own would also change those of other people's pods."""
    ours = {"app.kubernetes.io/name": "reelgate"}
    template = one(overlay, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert ours.items() <= template.items()
    assert one(overlay, "Service")["spec"]["selector"] == ours
    assert one(overlay, "Deployment")["spec"]["selector"]["matchLabels"] == ours
    assert one(overlay, "ServiceMonitor")["spec"]["selector"]["matchLabels"] == ours
    assert ours.items() <= one(overlay, "Service")["metadata"]["labels"].items()
    policies = [found["spec"] for found in rendered(overlay) if found["kind"] == "NetworkPolicy"]
    assert all(policy["podSelector"]["matchLabels"] == ours for policy in policies)


@overlays
def test_who_may_talk_to_whom(overlay: str) -> None:
    spec = one(overlay, "NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    doors = {rule["ports"][0]["port"]: rule["from"] for rule in spec["ingress"]}
    assert doors.keys() == {"http", "management"}
    assert all(list(peer) == ["namespaceSelector"] and peer["namespaceSelector"] for one_of in doors.values()
               for peer in one_of)
    names, world = spec["egress"]
    assert names["to"][0]["podSelector"] == {"matchLabels": {"k8s-app": "kube-dns"}}
    assert {port["port"] for port in names["ports"]} == {53}
    assert [port["port"] for port in world["ports"]] == [443]
    closed = {network for peer in world["to"] for network in peer["ipBlock"]["except"]}
    assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fc00::/7"} <= closed
    if overlay == "postgres":
        (rule,) = one("postgres", "NetworkPolicy", "reelgate-database")["spec"]["egress"]
        assert [port["port"] for port in rule["ports"]] == [5432]


@overlays
def test_prometheus_finds_the_metrics_under_the_name_of_the_alerts(overlay: str) -> None:
    monitor = one(overlay, "ServiceMonitor")["spec"]
    (endpoint,) = monitor["endpoints"]
    assert endpoint["path"] in MANAGEMENT
    service = one(overlay, "Service")
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    job = service["metadata"]["labels"][monitor["jobLabel"]]
    assert f'up{{job="{job}"}}' in json.dumps(one(overlay, "PrometheusRule")).replace("\\", "")


@overlays
def test_the_alerts_are_the_very_same(overlay: str) -> None:
    written: Any = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text("utf-8"))
    assert one(overlay, "PrometheusRule")["spec"] == written
    assert rules.MADE.read_text("utf-8") == rules.prometheus_rule(), "make boards"


@overlays
def test_the_boards_are_the_very_same(overlay: str) -> None:
    found = one(overlay, "ConfigMap", "reelgate-boards")
    files = {file.name: file.read_text("utf-8") for file in (DEPLOY / "grafana/boards").glob("*.json")}
    assert found["data"] == files
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"


@overlays
def test_each_secret_of_the_configuration_is_named_in_the_readme(overlay: str) -> None:
    text = one(overlay, "ConfigMap")["data"]["reelgate.toml"]
    names = re.findall(rf'file = "{SECRETS}/(\w+)"', text)
    readme = (KUBERNETES / "README.md").read_text("utf-8")
    assert names
    assert all(name in readme for name in names)
    (mount,) = (mount for mount in container(overlay)["volumeMounts"] if mount["name"] == "secrets")
    assert mount["mountPath"] == SECRETS


def test_what_the_autoscaler_goes_by_are_metrics_that_there_are() -> None:
    (rule,) = autoscaling()["groups"][0]["rules"]
    names = set(re.findall(r"reelgate_\w+", rule["expr"]))
    assert names <= {metric.name for metric in METRICS}
    assert len(names) == 4


@needs_prometheus
@pytest.mark.parametrize(("in_flight", "state", "waiting"), [
    ((20, 10), "healthy", 50), ((20, 10), "degraded", 50), ((20, 25), "healthy", 0), ((20, 0), "open", 0),
    ((20, 0), "paused", 0),
])  # fmt: skip
def test_only_who_waits_for_us_is_counted(
    tmp_path: Path, in_flight: tuple[int, int], state: str, waiting: int
) -> None:
    """Two replicas, two providers of 20 and 25: the 50 that wait count where one has room and takes jobs.

    `state` is of the second one.
    """
    spec = autoscaling()
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(spec), "utf-8")
    series = []
    for pod_name, share in (("a", 0), ("b", 1)):
        of = f'namespace="reelgate", pod="{pod_name}"'
        series.append({"series": f'reelgate_videos{{{of}, status="queued"}}', "values": "50"})
        for provider, limit, has in zip(("x", "y"), (20, 25), in_flight, strict=True):
            mine = has // 2 + share * (has % 2)
            names = f'{of}, provider="{provider}"'
            series.append({"series": f"reelgate_provider_in_flight{{{names}}}", "values": str(mine)})
            limits = f"reelgate_provider_in_flight_limit{{{names}}}"
            series.append({"series": limits, "values": str(limit)})
            for known in PROVIDER_STATES:
                found = f'reelgate_provider_state{{{names}, state="{known}"}}'
                is_so = known == (state if provider == "y" else "healthy")
                series.append({"series": found, "values": str(int(is_so))})
    record = spec["groups"][0]["rules"][0]["record"]
    sample = {"labels": f'{record}{{namespace="reelgate"}}', "value": waiting}
    expected = {"expr": record, "eval_time": "0m", "exp_samples": [sample]}
    (tmp_path / "test.yml").write_text(yaml.safe_dump({
        "rule_files": ["rules.yml"], "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": series, "promql_expr_test": [expected]}],
    }), "utf-8")
    done = subprocess.run(
        ["promtool", "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl of this machine, only the wheel's")
def test_the_machines_own_kubectl_renders_the_same() -> None:
    """Another version of kustomize, where there is one."""
    for overlay in OVERLAYS:
        words = ["kubectl", "kustomize", str(KUBERNETES / "overlays" / overlay)]
        text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        assert tuple(yaml.safe_load_all(text)) == rendered(overlay)
