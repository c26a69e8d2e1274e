"""Images by buildah: a base of Debian, and what the build files make of it."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.house.sources import ROOT
from tests.k8s.images.tools import DIRECTORY, run

# The oldest Python that stepserve runs on, and what the build files ask of a base.
SUITE = "bookworm"
PACKAGES = "ca-certificates,python-is-python3,python3-venv"
CLEAN = "apt-get clean; rm -r /var/lib/apt/lists/*"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
POLICY = {"default": [{"type": "insecureAcceptAnything"}]}


class Store:
    """Images and containers in a directory of their own. Call ``close``, else mounts are left."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._policy = directory / "policy.json"
        self._policy.write_text(json.dumps(POLICY))
        self._registries = directory / "registries.conf"
        self._registries.write_text("")
        # With what the image's files are laid over each other, by the kernel.
        (directory / "storage.conf").write_text('[storage]\ndriver = "overlay"\n')

    def buildah(self, command: str, *arguments: str | Path) -> str:
        """Run a command of buildah and return what it printed."""
        options: list[str | Path] = []
        if command in ("from", "bud", "commit"):
            options += ["--signature-policy", self._policy]
        if command in ("from", "bud"):
            options += ["--pull-never"]
        if command in ("bud", "run"):
            options += ["--isolation", "chroot", "--network", "host"]
        return run(
            "buildah",
            *("--root", self._directory / "storage", "--runroot", self._directory / "run"),
            *("--storage-driver", "overlay", "--registries-conf", self._registries),
            *(command, *options, *arguments),
        ).strip()

    @contextmanager
    def container(self, image: str) -> Iterator[str]:
        """Give a container of an image: something to write to, or to look into."""
        name = self.buildah("from", image)
        try:
            yield name
        finally:
            self.buildah("rm", name)

    def debootstrap(self, image: str) -> None:
        """Make an image of Debian with Python, and nothing that the build files do not ask for."""
        with self.container("scratch") as name:
            root = Path(self.buildah("mount", name))
            run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, root)
            run("chroot", root, "sh", "-ec", CLEAN)
            # It copies this machine's.
            for file in ("resolv.conf", "hostname"):
                (root / "etc" / file).unlink(missing_ok=True)
            self.buildah("umount", name)
            self.buildah("config", "--env", f"PATH={PATH}", name)
            self.buildah("commit", "--quiet", name, image)

    def redis(self, base: str, image: str) -> None:
        """Make an image of another and Debian's Redis, with no configuration of its own."""
        with self.container(base) as name:
            install = "apt-get update && apt-get install -y --no-install-recommends redis-server"
            self.buildah("run", name, "--", "sh", "-ec", f"{install}; rm -r /etc/redis; {CLEAN}")
            self.buildah("commit", "--quiet", name, image)

    def fetch(self, base: str, service: str, home: Path) -> None:
        """Fetch what a service's image installs into ``home``, which is then root's in a build.

        The base's own Python asks, from where this machine's pip looks. The build needs no network
        for it, and nothing of this machine's configuration gets into the image.
        """
        configuration = home / ".config/pip/pip.conf"
        configuration.parent.mkdir(parents=True)
        values = pip_values()
        configuration.write_text(
            "\n".join(["[global]", *(f"{k} = {v}" for k, v in values.items())])
        )
        places = [f"--volume={path}:{path}:ro" for path in local_paths(values.values())]
        wheels = ["--only-binary=:all:", "--dest", "/root/wheels"]
        options = ["--quiet", "--constraint", "/mnt/constraints.txt", *wheels]
        with self.container(base) as name:
            self.buildah("run", name, "--", "python", "-m", "venv", "/opt/pip")
            volumes = [f"--volume={home}:/root", f"--volume={ROOT}:/mnt:ro", *places]
            pip = ["/opt/pip/bin/pip", "download", *options, *requirements(service)]
            self.buildah("run", *volumes, name, "--", *pip)
        configuration.write_text("[global]\nno-index = true\nfind-links = /root/wheels\n")

    def build(self, service: str, image: str, base: str, home: Path) -> None:
        """Build a service's image; ``home`` is root's, with pip's configuration, in the build."""
        self.buildah(
            "bud",
            *("--quiet", "--build-arg", f"BASE={base}"),
            *("--volume", f"{home}:/root:ro", "--tag", image),
            *("--file", ROOT / f"k8s/containers/{service}.Dockerfile", ROOT),
        )

    def settings(self, image: str) -> dict[str, Any]:
        """Return what an image says of how it is run, by the names of the OCI's specification."""
        inspected = json.loads(self.buildah("inspect", "--type", "image", image))
        found: dict[str, Any] = inspected["OCIv1"]["config"]
        return found

    def size_bytes(self, image: str) -> int:
        [listed] = json.loads(self.buildah("images", "--json", image))
        number, unit = str(listed["size"]).split()
        return round(float(number) * 1000.0 ** ("B", "KB", "MB", "GB").index(unit))

    def close(self) -> None:
        """Remove every container and image, and what is mounted for them."""
        self.buildah("rm", "--all")
        self.buildah("rmi", "--all", "--force")


def seccomp_file() -> Path:
    """Return the profile that container engines take by default."""
    name = "usr/share/containers/seccomp.json"
    return next(path for path in (DIRECTORY / name, Path("/") / name) if path.exists())


def pip_values() -> dict[str, str]:
    """Return how this machine's pip is configured, by file and by variable."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    pairs = [line.split("=", 1) for line in listed.splitlines()]
    # The variables come first, and win.
    return {key.rpartition(".")[2]: ast.literal_eval(value) for key, value in reversed(pairs)}


def local_paths(values: Iterable[str]) -> list[Path]:
    """Return the files and directories of this machine that pip's configuration names.

    An index on disk may link to what lies beside it.
    """
    words = " ".join(values).split()
    paths = {Path(word) for word in words if word.startswith("/")}
    indexes = {Path(word.removeprefix("file://")) for word in words if word.startswith("file://")}
    return sorted(path for path in paths | {path.parent for path in indexes} if path.exists())


def requirements(service: str) -> list[str]:
    """Return what the build of the wheel and a service require, as pip takes it."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = settings["project"]
    extra: list[str] = project["optional-dependencies"][service]
    return [*settings["build-system"]["requires"], *project["dependencies"], *extra]
