"""The image's steps without a container: each stage a folder, its commands run in it as they stand.

A folder is entered by mounts of its own (`unshare --mount`, `chroot`), which end with the command: the /usr
that is here read-only, and at /usr/local, where the base image has its Python, ours under a layer that takes
what is written. Held here: building, entering. Not held here: what is run together (`house`), what a
Dockerfile says (`dockerfile`).

What differs from a builder: the base image is this machine; unless `exactly` is asked for, what pip would
fetch is laid there by uv, from its cache.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Final, NamedTuple

from tests.deploy.dockerfile import Stage, argv, stages

ROOT: Final = Path(__file__).parents[2]
DOCKERFILE: Final = ROOT / "deploy/Dockerfile"
PREFIX: Final = Path(sys.base_prefix)
_PACKAGES: Final = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
_LINKS: Final = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_FOLDERS: Final = ("etc", "usr", "dev", "proc", "opt", "root", "var/lib", "tmp")
_OF_ETC: Final = (
    "passwd", "group", "shadow", "gshadow", "login.defs", "nsswitch.conf", "ld.so.cache", "pip.conf", "ssl",
    "resolv.conf", "hosts", "mime.types",
)
_FETCHES: Final = re.compile(r"pip (?:--python (?P<into>\S+) )?install .*--require-hashes -r (?P<file>\S+)")
_PROGRAMS: Final = ("unshare", "chroot", "setpriv", "mount", "ip", "useradd")
ALONE: Final = ("unshare", "--mount", "--net")
_NOBODY: Final = (
    "setpriv", "--no-new-privs", "--clear-groups", "--inh-caps=-all", "--ambient-caps=-all",
    "--bounding-set=-all",
)


class Mount(NamedTuple):
    """What stands at `place` inside; `origin` None: an empty folder in memory."""

    place: str
    origin: Path | None = None
    is_read_only: bool = False


def missing() -> str | None:
    """Why no image can be tried here; None when it can."""
    if os.geteuid() != 0:
        return "needs root, to enter a folder as a root of its own"
    absent = [name for name in _PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"needs {', '.join(absent)}: apt-get install util-linux iproute2 passwd"
    if not (PREFIX / "bin/python").exists() or Path("/usr") == PREFIX:
        return "needs a Python that is not the system's own, to stand at /usr/local as in the base image"
    tried = subprocess.run([*ALONE, "true"], capture_output=True, text=True, check=False)
    return None if tried.returncode == 0 else f"may not have mounts and a network of its own: {tried.stderr}"


class Image:
    """A stage: its files, and what the instructions say of how it is run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = folder / "files"
        self.environment = {
            "PATH": "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin",
            "LD_LIBRARY_PATH": "/usr/local/lib",  # not the system's libpython
        }
        self.directory = "/"
        self.user = "0:0"
        self.entrypoint: list[str] = []
        self.command: list[str] = []
        self.health: list[str] = []

    def at(self, path: str) -> Path:
        """Where the files of the image have `path`, /usr/local included."""
        inside = os.path.normpath(f"{self.directory}/{path}" if path[:1] != "/" else path)
        if inside.startswith("/usr/local/"):
            return self.folder / "local" / inside.removeprefix("/usr/local/")
        return self.files / inside.lstrip("/")

    def entered(
        self, words: Sequence[str], mounts: Sequence[Mount] = (), *, is_read_only: bool = True,
        environment: Mapping[str, str] = {},
    ) -> list[str]:
        """The command that runs `words` in the image, as its user where that is not root."""
        files = str(self.files)
        local = self.folder / "local"
        layer = f"lowerdir={PREFIX},upperdir={local},workdir={self.folder / 'work'}"
        if is_read_only:  # and then several at once may stand on it
            layer = f"lowerdir={local}:{PREFIX}"
        lines = [
            ["mount", "--make-rprivate", "/"],
            ["mount", "--bind", files, files],
            ["mount", "--rbind", "/usr", f"{files}/usr"],
            ["mount", "-o", "remount,bind,ro", f"{files}/usr"],
            ["mount", "-t", "overlay", "overlay", "-o", layer, f"{files}/usr/local"],
            ["mount", "--rbind", "/dev", f"{files}/dev"],
            ["mount", "--rbind", "/proc", f"{files}/proc"],
        ]
        for place, origin, is_fixed in mounts:
            inside = f"{files}{place}"
            _begin(Path(inside), is_file=origin is not None and origin.is_file())
            kind = ["-t", "tmpfs", "tmpfs"] if origin is None else ["--bind", str(origin)]
            lines.append(["mount", *kind, inside])
            if is_fixed:
                lines.append(["mount", "-o", "remount,bind,ro", inside])
        if is_read_only:
            lines.append(["mount", "-o", "remount,bind,ro", files])
        values = [f"{name}={value}" for name, value in (self.environment | dict(environment)).items()]
        user, _, group = self.user.partition(":")
        who = [] if user == "0" else [*_NOBODY, f"--reuid={user}", f"--regid={group}"]
        inner = ["env", "-i", *values, *who, "env", f"--chdir={self.directory}", *words]
        lines.append(["exec", "chroot", files, *inner])
        return ["unshare", "--mount", "sh", "-euc", "\n".join(map(shlex.join, lines))]


def _begin(place: Path, *, is_file: bool) -> None:
    """Something to mount over, where there is nothing."""
    if is_file and not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    elif not is_file:
        place.mkdir(parents=True, exist_ok=True)


def base_image(folder: Path) -> Image:
    """What to begin from: the machine that runs the tests."""
    image = Image(folder)
    for name in _FOLDERS:
        (image.files / name).mkdir(parents=True)
    for name in ("local", "work"):
        (folder / name).mkdir()
    (image.files / "tmp").chmod(0o1777)
    packages = folder / "local" / _PACKAGES
    packages.mkdir(parents=True)
    os.setxattr(packages, "trusted.overlay.opaque", b"y")  # of what our Python holds, pip alone
    for found in (PREFIX / _PACKAGES).glob("pip*"):
        _copy(found, packages / found.name)
    pip = folder / "local/bin/pip"  # that of our prefix names it by a path that is not there inside
    pip.parent.mkdir()
    pip.write_text('#!/bin/sh\nexec python -m pip "$@"\n', "utf-8")
    pip.chmod(0o755)
    for name in _LINKS:
        if Path("/", name).is_symlink():
            (image.files / name).symlink_to(Path("/", name).readlink())
    for name in _OF_ETC:
        if Path("/etc", name).exists():
            _copy(Path("/etc", name), image.files / "etc" / name)
    own = Path.home() / ".config/pip"
    if own.exists():
        _copy(own, image.files / "root/.config/pip")
    return image


def build(target: str, folder: Path, *, exactly: bool = False) -> Image:
    """The image of a stage of deploy/Dockerfile, in `folder`, with the stages that it stands on, once.

    Raises CalledProcessError or AssertionError where a step fails.
    """
    known = stages(DOCKERFILE.read_text("utf-8"))
    return _built(known, known[target], folder, exactly)


def _built(known: Mapping[str, Stage], stage: Stage, folder: Path, exactly: bool) -> Image:
    image = Image(folder / stage.name)
    is_there = image.folder.exists()
    if stage.base in known:
        base = _built(known, known[stage.base], folder, exactly)
        if not is_there:
            subprocess.run(["cp", "-a", base.folder, image.folder], check=True)
        for name in ("environment", "directory", "user", "entrypoint", "command"):
            setattr(image, name, copy(getattr(base, name)))
    elif not is_there:
        image = base_image(folder / stage.name)
    for word, text in stage.steps:
        if word not in {"COPY", "RUN"}:
            _note(image, word, text)
        elif not is_there and word == "RUN":
            _run(image, text, exactly=exactly)
        elif not is_there and text.startswith("--from="):
            name, origin, place = text.removeprefix("--from=").split()
            _copy(_built(known, known[name], folder, exactly).at(origin), image.at(place))
        elif not is_there:
            *origins, place = text.split()
            for one in origins:
                _copy(ROOT / one, image.at(place) / one if place in {".", "./"} else image.at(place))
    return image


def _note(image: Image, word: str, text: str) -> None:
    """What an instruction says of how the image is run. One that nobody knows here is refused."""
    if word == "ENV":
        for pair in shlex.split(text):
            name, _, value = pair.partition("=")
            image.environment[name] = value.replace("$PATH", image.environment["PATH"])
    elif word == "WORKDIR":
        image.directory = text
        image.at(".").mkdir(parents=True, exist_ok=True)
    elif word == "USER":
        image.user = text
    elif word == "ENTRYPOINT":
        image.entrypoint = argv(text)
    elif word == "CMD":
        image.command = argv(text)
    elif word == "HEALTHCHECK":
        image.health = argv(text.partition("CMD ")[2])
    else:
        assert word in {"ARG", "EXPOSE", "LABEL", "STOPSIGNAL"}, word


def _run(image: Image, text: str, *, exactly: bool) -> None:
    """A RUN as it stands, by root as in a builder. `exactly` False: what it would fetch comes by uv."""
    fetch = _FETCHES.fullmatch(text)
    if fetch and not exactly:
        packages = image.at(f"{fetch['into'] or '/usr/local'}/{_PACKAGES}")
        words = [str(Path(sys.executable).with_name("uv")), "pip", "install", "--quiet", "--require-hashes"]
        words += ["--python", sys.executable, "--target", str(packages), "-r", str(image.at(fetch["file"]))]
        subprocess.run(words, check=True)
        return
    # A wildcard is the shell's; a builder's environment has what names the package index here.
    given = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}
    certificates = Path(given.get("PIP_CERT", ""))
    if certificates.is_file():
        image.at("/etc/certificates.pem").write_bytes(certificates.read_bytes())
        given["PIP_CERT"] = "/etc/certificates.pem"
    given["HOME"] = "/root"
    words = image.entered(["sh", "-ec", text], is_read_only=False, environment=given)
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"RUN {text}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"


def _copy(origin: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if origin.is_dir():
        shutil.copytree(origin, target, symlinks=True, dirs_exist_ok=True)
    else:
        shutil.copy2(origin, target)
