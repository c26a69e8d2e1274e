"""The images' build files: pinned, unprivileged, and copying only what exists."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = sorted((ROOT / "k8s/containers").glob("*.Dockerfile"))
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = SETTINGS["project"]["optional-dependencies"]
PACKAGES = SETTINGS["tool"]["importlinter"]["root_packages"]


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """Return (instruction, arguments) with continued lines joined and comments dropped."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    split = [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]
    return [(name, " ".join(arguments.split())) for name, arguments in split]


def test_there_is_one_for_each_service() -> None:
    assert [path.stem for path in DOCKERFILES] == ["scheduler", "worker"]


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_build_file(dockerfile: Path) -> None:
    steps = instructions(dockerfile)
    service = dockerfile.stem
    last = dict(steps)  # the last of each kind
    assert last["USER"] == "10001:10001"
    assert json.loads(last["ENTRYPOINT"]) == ["stepserve"]
    assert json.loads(last["CMD"])[0] == service
    assert steps[0] == ("ARG", "BASE=python:3.12-slim")
    assert [text for name, text in steps if name == "FROM"] == ["$BASE AS build", "$BASE"]
    installs = [text for name, text in steps if name == "RUN" and "pip install" in text]
    assert all("-c constraints.txt" in text for text in installs)
    assert installs[-1].endswith(f"'.[{service}]'")
    assert service in EXTRAS
    assert ("torch" in " ".join(installs)) == (service == "worker")


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_what_is_copied_exists(dockerfile: Path) -> None:
    included = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    assert all((ROOT / name).exists() for name in included)
    assert included >= {*PACKAGES}, "an image would lack a package"
    for name, arguments in instructions(dockerfile):
        if name == "COPY" and not arguments.startswith("--from="):
            source = arguments.split()[0]
            assert (ROOT / source).exists(), source
            assert source == "." or Path(source).parts[0] in included
