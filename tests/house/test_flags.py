"""Options and variables that documents name exist, in the command that they are named for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stepserve.cli import COMMANDS
from stepserve.process.command_line import ALIASES
from stepserve.process.variables import KNOWN
from tests.house.sources import ROOT, repository_files
from tests.stepserve.commands.test_command_line import settings_class

# A changelog tells of what was there then.
DOCUMENTS = [p for p in repository_files() if p.suffix == ".md" and p.name != "CHANGELOG.md"]
FLAG = re.compile(r"(?<![\w-])--([a-z][a-z0-9_-]*)")
VARIABLE = re.compile(r"\bSTEPSERVE_([A-Z][A-Z0-9_]*)\b")
COMMAND = re.compile(
    rf"\bstepserve ({'|'.join(sorted(COMMANDS, key=len, reverse=True))})\b([^`\n|;#]*)"
)
# Lines that start other programs, whose many flags are theirs.
OTHER_PROGRAM = re.compile(r"^ *(vllm|guidellm|lm_eval) .*$", re.MULTILINE)
# Of other programs: docker, kubectl, helm, mypy, redis-check-aof, pip, vllm, lm_eval; everybody's.
OTHERS = {
    "apply_chat_template", "build-arg", "dry-run", "endpoint", "extra-index-url", "fix",
    "from-env-file", "from-file", "help", "install", "model_args", "namespace", "no-deps",
    "replicas", "strict", "tokenizer", "values", "version",
}  # fmt: skip
# What Kubernetes would set, which is told as no setting of ours.
OTHER_VARIABLES = {"WORKER_PORT"}
# What stepserve up says itself, or has no use for.
OF_A_SCHEDULER = {"roles", "wait_for_worker"}
OF_A_WORKER = {
    "insecure", "max_kept_reports", "node_rank", "nodes", "rendezvous"
}  # fmt: skip


def flags_of(name: str) -> set[str]:
    """Return a command's options without hyphens, all of their names."""
    found = {"help"}
    for field in settings_class(name).model_fields:
        names = {kebab := field.replace("_", "-"), ALIASES.get(kebab, kebab)}
        found |= names | {f"no-{each}" for each in names}
    return found


EVERY = set().union(*map(flags_of, COMMANDS))


def unknown(text: str) -> list[str]:
    """Return what nobody knows of the flags and variables in a text, or not their command."""
    text = OTHER_PROGRAM.sub("", text.replace("\\\n", " "))
    strange = [f"--{flag}" for flag in FLAG.findall(text) if flag not in EVERY | OTHERS]
    for name, rest in COMMAND.findall(text):
        known = flags_of(name)
        strange += [f"{name} --{flag}" for flag in FLAG.findall(rest) if flag not in known]
    variables = set(VARIABLE.findall(text)) - KNOWN - OTHER_VARIABLES
    return [*strange, *(f"STEPSERVE_{name}" for name in variables)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_document_tells_to_type_is_known(document: Path) -> None:
    assert unknown(document.read_text(encoding="utf-8")) == []


def test_what_nobody_knows_is_noticed() -> None:
    text = (
        "`--polcy` `--retention-s` `stepserve jobs --limit 5 --policy fcfs` STEPSERVE_MODLE\n"
        "stepserve up --model M \\\n  --offset 3\n`stepserve keys add F --tenant t`"
    )
    assert unknown(text) == ["--polcy", "jobs --policy", "up --offset", "STEPSERVE_MODLE"]


def test_others_names_are_none_of_ours() -> None:
    assert {"help"} >= OTHERS & EVERY


def test_up_has_what_its_services_have() -> None:
    """So that a setting which a document names without a command is found in its help."""
    own = set(settings_class("up").model_fields)
    assert set(settings_class("scheduler").model_fields) - own == OF_A_SCHEDULER
    assert set(settings_class("worker").model_fields) - own <= OF_A_WORKER
