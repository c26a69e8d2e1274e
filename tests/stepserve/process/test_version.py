"""Sources that run as they lie, installed by nobody, serve all the same."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from stepserve.process.version import UNINSTALLED, own_version

ROOT = Path(__file__).parents[3]
# What asks for the version, with no metadata of stepserve's in sight.
ASKED = """
import importlib.metadata as metadata
installed = metadata.version
def found(name):
    if name == "stepserve":
        raise metadata.PackageNotFoundError(name)
    return installed(name)
metadata.version = found
import stepserve, scheduler_svc.http.openapi, worker_svc.assembly
print(stepserve.__version__)
"""


def test_an_installed_package_tells_its_version() -> None:
    assert own_version() == version("stepserve")


def test_sources_that_nobody_installed_say_so() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", ASKED], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == UNINSTALLED


def test_nobody_else_asks_for_it() -> None:
    product = ("stepserve", "scheduler_svc", "worker_svc", "kvstore", "stepserve_bench")
    asking = [
        path.relative_to(ROOT).as_posix()
        for top in product
        for path in (ROOT / top).rglob("*.py")
        if 'version("stepserve")' in path.read_text(encoding="utf-8")
    ]
    assert asking == ["stepserve/process/version.py"]
