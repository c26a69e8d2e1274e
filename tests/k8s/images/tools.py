"""What builds and runs images: Debian's programs, as `make images` unpacks them, or installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DIRECTORY = Path(sys.prefix) / "images"
PROGRAMS = ("buildah", "runc", "debootstrap", "nft", "ip", "unshare")
WAIT_S = 3600.0


def variables() -> dict[str, str]:
    """Return the environment in which the unpacked programs are found and find their parts."""
    paths = [str(DIRECTORY / "usr" / name) for name in ("sbin", "bin")]
    libraries = sorted(DIRECTORY.glob("usr/lib/*-linux-gnu"))
    scripts = DIRECTORY / "usr/share/debootstrap"
    found = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("STEPSERVE_", "PYTHON", "PIP_"))
    }
    found["PATH"] = os.pathsep.join([*paths, found["PATH"], "/usr/sbin", "/sbin"])
    if libraries:
        found["LD_LIBRARY_PATH"] = os.pathsep.join(map(str, libraries))
    if scripts.is_dir():
        found["DEBOOTSTRAP_DIR"] = str(scripts)
    return found


def run(*command: str | Path, given: str | None = None) -> str:
    """Run a program to its end and return what it printed; fail with all that it said."""
    done = subprocess.run(
        [str(part) for part in command],
        env=variables(),
        input=given,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def require() -> None:
    """Skip where images cannot be built or run, and say what is missing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("images are built and run by root on Linux")
    path = variables()["PATH"]
    if missing := [name for name in PROGRAMS if shutil.which(name, path=path) is None]:
        pytest.skip(f"not found: {', '.join(missing)}; `make images` fetches Debian's")
    namespaces = [
        "unshare",
        "--mount",
        "--net",
        "--pid",
        "--fork",
        "nft",
        "add",
        "table",
        "inet",
        "t",
    ]
    done = subprocess.run(namespaces, env=variables(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no namespaces, or no nftables in them: {done.stderr.strip()}")
