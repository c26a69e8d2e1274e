"""Help is for people: kinds of values and units, no types, and defaults as one types them."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout
from functools import cache

import pytest

from stepserve.cli import COMMANDS
from tests.house.sources import ROOT
from tests.stepserve.commands.test_command_line import exit_status, settings_class

TYPES = r"int|float|str|bool|tuple|list\[|dict\[|Path|SecretStr|Optional|NoneType|None|True|False"
LEAK = re.compile(rf"(?<![\w-])(?:{TYPES})(?:\[|,|\s|\)|$)")
UNITS = {"-s": "SECONDS", "-ms": "MILLISECONDS", "-bytes": "BYTES", "-us": "MICROSECONDS"}
# What is left out there is chosen by the model or the service, as the group's title says.
LEFT_OPEN = "sampling"


def entries(text: str) -> dict[str, str]:
    """Return each option's whole entry, in one line, by its first name."""
    found = re.split(r"\n  (?=-)", text)[1:]
    whole = [" ".join(entry.split("\n\n")[0].split()) for entry in found]
    return {re.split(r"[ ,]", entry)[0]: entry for entry in whole}


@cache
def help_of(name: str) -> str:
    with redirect_stdout(io.StringIO()) as shown:
        assert exit_status(*name.split(), "--help") == 0
    return shown.getvalue()


@pytest.fixture(params=COMMANDS)
def shown(request: pytest.FixtureRequest) -> str:
    return help_of(request.param)


def test_no_type_of_ours_is_shown(shown: str) -> None:
    options = "\n".join(entries(shown).values())
    assert LEAK.findall(options) == []
    assert str(ROOT) not in shown, "a path of this machine"
    assert "(default: (" not in options


def test_units_stand_where_values_do(shown: str) -> None:
    for name, entry in entries(shown).items():
        unit = next((unit for end, unit in UNITS.items() if name.endswith(end)), "")
        form = re.search(r"\b[A-Z]+,[A-Z]+\b", entry)
        assert unit in entry or (form and unit.lower() in entry), entry


def test_what_is_left_out_is_told(shown: str) -> None:
    """Of numbers: a text that is left out is none."""
    for part in shown.split("\n\n"):
        for entry in entries("\n" + part).values() if not part.startswith(LEFT_OPEN) else ():
            invocation = entry.partition("  ")[0]
            if re.search(r" (?:N|X|SECONDS|BYTES|MILLISECONDS|PORT)\b", invocation[:60]):
                told = re.search(r"default|required|nothing:|positional", entry)
                assert told, entry


def test_a_switch_is_shown_as_what_it_changes(shown: str) -> None:
    for name, entry in entries(shown).items():
        if "--no-" in entry.partition("  ")[0][:60] and name.startswith("--"):
            assert "(default: on)" in entry, entry


def test_other_names_are_shown_where_people_know_them() -> None:
    assert {"--json", "--all", "--model"} <= entries(help_of("jobs")).keys()
    assert entries(help_of("generate"))["-n"].startswith("-n, --n N independent outputs, 16")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_what_it_does(name: str) -> None:
    assert len((settings_class(name).__doc__ or "").strip()) > 20
