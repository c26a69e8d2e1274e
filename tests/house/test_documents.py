"""Files and directories that documents name are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.house.sources import ROOT, repository_files

DOCUMENTS = [path for path in repository_files() if path.suffix == ".md"]
# In code marks, by their path or its end.
FILE = re.compile(r"`([\w./-]+\.(?:py|lua|proto|md|toml|yaml|json|svg|txt|Dockerfile))`")
DIRECTORY = re.compile(r"`((?:[\w-]+/)+)`")
# Stands for any: a word in capitals that is not a document of that name.
ANY = re.compile(
    r"(?:^|/)(?!README|ARCHITECTURE|CONTRIBUTING|CHANGELOG|MUTANTS|LONG|LICENSE)[A-Z]{4,}"
)
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")


def missing(document: Path) -> list[str]:
    """Return what the document names or links to, and is not in the repository."""
    paths = {path.relative_to(ROOT).as_posix() for path in repository_files()}
    paths |= {parent.as_posix() for path in paths for parent in Path(path).parents}
    tails = {"/".join(path.split("/")[i:]) for path in paths for i in range(path.count("/") + 1)}
    text = document.read_text(encoding="utf-8")
    named = [*FILE.findall(text), *DIRECTORY.findall(text)]
    return [
        *(name for name in named if name.strip("/") not in tails and not ANY.search(name)),
        *(link for link in LINK.findall(text) if not (document.parent / link).exists()),
    ]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_document_names_is_there(document: Path) -> None:
    if document.name == "CHANGELOG.md":
        pytest.skip("it tells of what was there then")
    assert missing(document) == []


def test_a_missing_file_is_noticed(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text(
        "`core/scheduler.py` `core/gone.py` `NAME.py` `gone/` [a](gone.md#b) [c](page.md) [d](http://e)"
    )
    assert missing(document) == ["core/gone.py", "gone/", "gone.md"]
