"""The ways of installing as data: what each gives the gateway, how it looks after it, and how it ends it.

All of it is taken from deploy/. Changed is only what must not be reached from here: the vendor's address
becomes the simulators', S3's a server of this machine.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeAlias
from urllib.request import ProxyHandler, build_opener

import msgspec

from tests.deploy.image import Image, Mount, build
from tests.deploy.manifests import DEPLOY, UNIT, compose, one, seconds, unit

Run: TypeAlias = Callable[..., "subprocess.CompletedProcess[str]"]  # another command beside the gateway
Check: TypeAlias = Callable[[Run, int], bool]  # by that, or from without; of the process

KEY: Final = "sandbox-key"
S3_PORT: Final = 9100
S3_KEYS: Final = {"s3_access_key_id": "key-of-the-test", "s3_secret_access_key": "secret-of-the-test"}
BUCKET: Final = "reelgate-videos"
_STORE_URL: Final = "postgresql://reelgate:a-password@postgres:5432/reelgate"
_VENDOR: Final = 'adapter = "highwayapi"\n'
_open: Final = build_opener(ProxyHandler({})).open
# Like MemoryDenyWriteExecute= of the unit: 65 is PR_SET_MDWE of prctl(2).
_NO_NEW_CODE: Final = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(65, 1, 0, 0, 0); os.execvp(sys.argv[1], sys.argv[1:])"
)


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """How a gateway is run: `words` in the image with `mounts`; `checks` pass one after the other.

    Beside it, where they are not empty: a database at `store_url` with its health check, S3, Prometheus.
    """

    gateway: Image
    words: Sequence[str]
    mounts: Sequence[Mount]
    checks: Sequence[Check]
    grace_seconds: float
    url: str = "http://127.0.0.1:8080"
    sandbox: Image | None = None  # None: our own
    store_url: str = ""
    database_health: Sequence[str] = ()
    has_s3: bool = False
    prometheus: Sequence[str] = ()
    prometheus_health: str = ""


def _folder(folder: Path, name: str, files: dict[str, str] | None = None) -> Path:
    """A folder with those files, the image's user's own."""
    made = folder / name
    made.mkdir()
    for file, text in (files or {}).items():
        (made / file).write_text(text, "utf-8")
    for path in (made, *made.iterdir()):
        shutil.chown(path, 10001, 10001)
    return made


def _towards_the_sandbox(text: str) -> str:
    """A configuration whose vendor and S3 are here."""
    assert _VENDOR in text
    text = text.replace(_VENDOR, f'{_VENDOR}base_url = "http://sandbox:9000/highwayapi"\n')
    bucket = f'url = "s3://{BUCKET}/prod"\n'
    text = text.replace(bucket, f'{bucket}endpoint = "http://127.0.0.1:{S3_PORT}"\n')
    return f'{text}\n[egress]\nallow = ["sandbox", "127.0.0.1"]\n'


def by_compose(folder: Path, images: Path) -> Way:
    """compose.yaml with its profile `sandbox`, as it stands."""
    shutil.copy2(DEPLOY / "make-secrets.sh", folder)
    subprocess.run(["sh", str(folder / "make-secrets.sh")], check=True, stdout=subprocess.DEVNULL)
    services = compose()["services"]
    ours, prometheus = services["gateway"], services["prometheus"]
    image, secrets = build("gateway", images), folder / "secrets"
    volume = _folder(folder, "volume")
    mounts = [Mount(f"/run/secrets/{name}", secrets / name, True) for name in ours["secrets"]]
    for text in ours["volumes"]:
        origin, place, *rest = text.split(":")
        mounts.append(Mount(place, DEPLOY / origin if origin.startswith("./") else volume, "ro" in rest))
    return Way(
        gateway=image, words=[*image.entrypoint, *image.command],
        mounts=[*mounts, *(Mount(place) for place in ours["tmpfs"])],
        checks=[lambda run, _: run(*image.health).returncode == 0],
        grace_seconds=seconds(ours["stop_grace_period"]),
        sandbox=build("sandbox", images) if (images / "sandbox").exists() else None,
        store_url=(secrets / "store_url").read_text("utf-8"),
        database_health=services["postgres"]["healthcheck"]["test"][1:],
        prometheus=prometheus["command"], prometheus_health=prometheus["healthcheck"]["test"][-1],
    )


def by_kubernetes(overlay: str, folder: Path, images: Path) -> Way:
    """A pod of an overlay: its arguments, its volumes, its probes in their order."""
    pod = one(overlay, "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    pause = container["lifecycle"]["preStop"]["sleep"]
    secrets = {"highwayapi_key": KEY, "store_url": _STORE_URL} | S3_KEYS
    text = one(overlay, "ConfigMap")["data"]["reelgate.toml"]
    made = {
        "config": _folder(folder, "config", {"reelgate.toml": _towards_the_sandbox(text)}),
        "secrets": _folder(folder, "secrets", secrets),
        "data": _folder(folder, "data"), "tmp": None,
    }
    mounts = [
        Mount(mount["mountPath"], made[mount["name"]], mount.get("readOnly", False))
        for mount in container["volumeMounts"]
    ]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    probes = [container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")]
    image = build("gateway", images)
    return Way(
        gateway=image, words=[*image.entrypoint, *container["args"]], mounts=mounts,
        checks=[_probe(f"http://127.0.0.1:{ports[probe['port']]}{probe['path']}") for probe in probes],
        grace_seconds=pod["terminationGracePeriodSeconds"] - pause["seconds"],
        url=f"http://127.0.0.1:{ports['http']}",
        store_url=_STORE_URL if overlay == "postgres" else "", has_s3=overlay == "postgres",
    )


def by_systemd(folder: Path, images: Path) -> Way:
    """The unit's command, its credentials, and what has to pass before it counts as started."""
    told = unit()
    text = _towards_the_sandbox((DEPLOY / "systemd/reelgate.toml").read_text("utf-8"))
    names = [one.partition(":")[0] for one in told["LoadCredential"]]
    image = build("gateway", images)
    (command,), (wait,) = told["ExecStart"], told["ExecStartPost"]

    def is_started(run: Run, pid: int) -> bool:
        return run(*shlex.split(wait.replace("$MAINPID", str(pid)))).returncode == 0

    return Way(
        gateway=image, words=["python", "-c", _NO_NEW_CODE, *shlex.split(command)],
        mounts=[
            Mount("/etc/reelgate", _folder(folder, "config", {"reelgate.toml": text}), True),
            Mount(f"/run/credentials/{UNIT.name}", _folder(folder, "keys", dict.fromkeys(names, KEY)), True),
            Mount("/var/lib/reelgate", _folder(folder, "state")), Mount("/tmp"),  # noqa: S108 - inside
        ],
        checks=[is_started], grace_seconds=seconds(told["TimeoutStopSec"][-1]),
    )


def is_good(url: str) -> bool:
    """Whether that answers 200."""
    try:
        with _open(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _probe(url: str) -> Check:
    return lambda _run, _pid: is_good(url)


WAYS: Final[dict[str, Callable[[Path, Path], Way]]] = {
    "compose": by_compose,
    "kubernetes-sqlite": lambda folder, images: by_kubernetes("sqlite", folder, images),
    "kubernetes-postgres": lambda folder, images: by_kubernetes("postgres", folder, images),
    "systemd": by_systemd,
}
SANDBOX: Final = (
    sys.executable, "-m", "gateway", "sandbox", "--host", "0.0.0.0", "--port", "9000",  # noqa: S104
)
SANDBOX_HEALTH: Final = (
    sys.executable, "-m", "gateway.healthcheck", "--url", "http://127.0.0.1:9000/admin/health"
)
