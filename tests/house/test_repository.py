"""What must agree across files: generated code, documents, versions, paths."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import version

import pytest

from stepserve.protocol.generate import stale_outputs
from tests.house.sources import ROOT, python_files, repository_files

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT, TOOL = SETTINGS["project"], SETTINGS["tool"]
TARGETS = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))

# Directories that exist on one machine only; /tmp is what a program must ask tempfile for.
MACHINE_PATH = re.compile(r"(?<![\w.:/~}-])/(?:work|tmp|home|root|Users)/[\w.]")


def test_generated_code_is_current() -> None:
    assert stale_outputs() == []


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_documented_targets_exist(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^|[\s`])make (?:[A-Z_]+=\S+ )*([a-z][a-z-]*)", _code(text)))
    assert {"demo", "test"} <= named
    assert named <= TARGETS


def test_documented_commands_exist() -> None:
    from stepserve.cli import COMMANDS

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^|[`/])stepserve ([a-z]+)", _code(text), re.MULTILINE))
    assert named
    assert named <= {name.partition(" ")[0] for name in COMMANDS}


def _code(text: str) -> str:
    return "\n".join(re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL))


def test_version_is_the_same_everywhere() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{PROJECT['version']}]" in changelog
    assert version("stepserve") == PROJECT["version"]


def test_tests_mirror_the_packages() -> None:
    """What is below tests/PACKAGE is called as what it tests is."""
    packages = TOOL["importlinter"]["root_packages"]
    folders = {
        path.relative_to(ROOT / "tests").parent for path in python_files() if "tests" in path.parts
    }
    mirrored = {folder for folder in folders if folder.parts and folder.parts[0] in packages}
    assert {folder.parts[0] for folder in mirrored} == {*packages}
    assert [folder for folder in sorted(mirrored) if not (ROOT / folder).is_dir()] == []


def test_no_paths_of_one_machine() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in repository_files()
        if "tests" not in path.relative_to(ROOT).parts
        for number, line in enumerate(_lines(path.read_bytes()), start=1)
        if MACHINE_PATH.search(line)
    ]
    assert not found, "\n".join(found)


def _lines(content: bytes) -> list[str]:
    if b"\0" in content[:8192]:
        return []  # not text
    return content.decode("utf-8", errors="replace").splitlines()


def test_every_dependency_is_pinned() -> None:
    pinned = {
        _normal(line.partition("==")[0])
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    }
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    wanted = {_normal(re.split(r"[\[<>=!~; ]", item)[0]) for group in groups for item in group}
    assert wanted - pinned == {PROJECT["name"]}


def _normal(name: str) -> str:
    return name.strip().lower().replace("_", "-")
