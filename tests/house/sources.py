"""The files that the house rules are about."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def tracked_files() -> list[Path]:
    """Return what git tracks or would track, sorted."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    paths = [ROOT / name for name in listing.stdout.split("\0") if name]
    return sorted(path for path in paths if path.is_file())


def repository_files() -> list[Path]:
    """Return the tracked files without generated code, which is not ours to judge."""
    return [path for path in tracked_files() if "_pb2" not in path.name]


def python_files() -> list[Path]:
    return [path for path in repository_files() if path.suffix == ".py"]
