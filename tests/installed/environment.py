"""Environments as users have them: the built wheel, what its extras bring, and nothing else.

No network: what pip would fetch is linked from the environment that runs the tests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from tests.house.sources import ROOT, tracked_files

# Folders that a user may well have where the command is run.
USERS_FOLDERS = ("protos", "bench", "kvstore", "modelfiles", "scheduler_svc", "worker_svc")


def build_wheel(directory: Path) -> Path:
    """Build the wheel of the files that git tracks, and return its path."""
    source = directory / "source"
    for path in tracked_files():
        copy = source / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    pip("wheel", *options, "--wheel-dir", str(directory), str(source))
    [wheel] = directory.glob("stepserve-*.whl")
    return wheel


class Environment:
    """A virtual environment with the wheel and these extras, beside a user's folders."""

    def __init__(self, directory: Path, wheel: Path, extra: str = "") -> None:
        venv.create(directory / "venv", symlinks=True)
        self.bin = directory / "venv" / "bin"
        self.python = self.bin / "python"
        self.folder = directory / "folder"
        options = ["--quiet", "--no-deps", "--no-index"]
        pip("--python", str(self.python), "install", *options, str(wheel))
        [packages] = (directory / "venv" / "lib").glob("python*/site-packages")
        libraries = directory / "libraries"
        _link(libraries, _closure(_requirements(packages, extra)))
        (packages / "libraries.pth").write_text(f"{libraries}\n")
        for name in USERS_FOLDERS:
            (self.folder / name).mkdir(parents=True)
            (self.folder / name / "__init__.py").write_text("raise ImportError('of the user')\n")

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a program of this environment in the user's folder."""
        return subprocess.run(
            [self.bin / command[0], *command[1:]],
            cwd=self.folder,
            env=self.variables(),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    @staticmethod
    def variables() -> dict[str, str]:
        """Return the variables without those that say how the tests are run."""
        ours = ("STEPSERVE_", "PYTHON", "PYTEST_", "VIRTUAL_ENV")
        return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def pip(*arguments: str) -> None:
    """Run pip with the tests' own Python; fail with what it says.

    The repository is not on its path: what is installed there in place would count as installed.
    """
    command = [sys.executable, "-P", "-m", "pip", "--disable-pip-version-check", *arguments]
    variables = Environment.variables()
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _requirements(packages: Path, extra: str) -> list[Requirement]:
    [installed] = metadata.distributions(name="stepserve", path=[str(packages)])
    wanted = list(_wanted(installed, [extra]))
    for other in [item for item in wanted if item.name == "stepserve"]:
        wanted += _wanted(installed, sorted(other.extras))
    return [item for item in wanted if item.name != "stepserve"]


def _wanted(found: metadata.Distribution, extras: Sequence[str]) -> Iterator[Requirement]:
    """Yield what a distribution requires here with these extras."""
    for requirement in map(Requirement, found.requires or []):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras or [""]):
            yield requirement


def _closure(requirements: Sequence[Requirement]) -> list[metadata.Distribution]:
    """Return the distributions that these requirements bring, and those that they bring."""
    found: dict[tuple[str, tuple[str, ...]], metadata.Distribution] = {}
    waiting = list(requirements)
    while waiting:
        requirement = waiting.pop()
        key = requirement.name.lower(), tuple(sorted(requirement.extras))
        if key not in found:
            found[key] = metadata.distribution(requirement.name)
            waiting += _wanted(found[key], ["", *key[1]])
    return list(found.values())


def _link(directory: Path, distributions: Sequence[metadata.Distribution]) -> None:
    """Link the top-level files and folders of distributions into a directory."""
    directory.mkdir()
    for distribution in distributions:
        tops = {file.parts[0] for file in distribution.files or []}
        for top in tops - {"..", "__pycache__"}:
            link = directory / top
            if not link.is_symlink():
                link.symlink_to(Path(str(distribution.locate_file(top))).resolve())
