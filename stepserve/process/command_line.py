"""Settings from flags, ``STEPSERVE_*`` variables and defaults, alike for every command."""

from __future__ import annotations

import difflib
import io
import itertools
import json
import os
import re
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from functools import partial
from typing import NoReturn, TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings, CliApp, CliSettingsSource, SettingsError

from stepserve.process.help_groups import arrange_help
from stepserve.process.help_values import Help
from stepserve.process.redaction import redacted
from stepserve.process.variables import strangers

S = TypeVar("S", bound=BaseSettings)

# What stands for None on a command line: nothing, since no argument can hold a NUL. Else
# the prompt "None" would be no prompt.
_NONE = "\0"

# Other names of options: shorter, or what vLLM's users know them by.
ALIASES = {
    "as-json": "json",
    "every": "all",
    "max-batch-size": "max-num-seqs",
    "max-context": "max-model-len",
    "max-step-tokens": "max-num-batched-tokens",
    "memory-fraction": "gpu-memory-utilization",
    "model-name": "served-model-name",
    "served-model": "model",
}


def parse_settings(settings_class: type[S], prog: str, argv: Sequence[str]) -> S:
    """Return the settings that ``argv`` and the environment give.

    Every text is taken as it stands, those of a list too: a flag given again is one more
    text of the list. An empty variable is none, and one that no command has is refused.
    Raises SystemExit: status 0 after printing help, 2 after saying what is wrong.
    """
    problems = strangers(os.environ)
    source: CliSettingsSource[S] = CliSettingsSource(
        settings_class,
        cli_prog_name=prog,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_parse_none_str=_NONE,
        cli_shortcuts=ALIASES,
        parse_args_method=_Literally(settings_class),
        formatter_class=Help,
    )
    source.env_ignore_empty = False  # Of variables; a text that was typed is one.
    try:
        found = CliApp.run(settings_class, cli_args=list(argv), cli_settings_source=source)
    except (ValidationError, SettingsError) as error:
        problems.append(_problems(error))
    if problems:
        _refuse(prog, "; ".join(problems))
    return found


def print_any_character() -> None:
    """Let standard output print a replacement for what its encoding lacks, and go on."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def flag(name: str, value: object) -> str:
    """Return ``--name=value``, as it would be parsed; a truth is ``--name`` or ``--no-name``."""
    kebab = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{kebab}" if value else f"--no-{kebab}"
    return f"--{kebab}={value}"


def meant(before: str, given: str, known: Iterable[str]) -> str:
    """Return "; is it ...?" for the known name that is most like the given one, or nothing."""
    close = difflib.get_close_matches(given, known, 1, cutoff=0.75)
    return f"; is it {before}{close[0]}?" if close else ""


class _Literally:
    """Parses arguments, and makes JSON of lists of texts, which pydantic would take apart."""

    def __init__(self, settings_class: type[BaseSettings]) -> None:
        self._settings_class = settings_class
        fields = settings_class.model_fields.items()
        self._names = [name for name, field in fields if field.annotation == list[str]]

    def __call__(self, parser: ArgumentParser, argv: Sequence[str]) -> Namespace:
        arrange_help(parser, self._settings_class)
        parser.error = partial(_refuse_arguments, parser, argv)  # type: ignore[method-assign]
        found = parser.parse_args(argv)
        for name in self._names:
            if isinstance(texts := getattr(found, name, None), list):
                setattr(found, name, json.dumps(texts))
        return found


def _refuse(prog: str, problem: str) -> NoReturn:
    """Say what is wrong, and where help is, and end with status 2."""
    # What is refused is quoted, and may hold a password.
    told = redacted(f"{prog}: {problem}")
    print(f"{told}\n{prog} --help lists the options.", file=sys.stderr)
    raise SystemExit(2)


def _refuse_arguments(parser: ArgumentParser, argv: Sequence[str], message: str) -> NoReturn:
    """In place of argparse's own, which prints the usage of up to 60 lines first."""
    if (strange := _strange_flags(parser, argv)) and "are required" in message:
        # What is missing may be what it was meant to be; argparse would say that alone.
        message = f"unrecognized arguments: {' '.join(strange)}"
    unknown = re.match(r"unrecognized arguments: (--[^\s=]+)", message)
    hint = meant("", unknown[1], parser._option_string_actions) if unknown else ""
    _refuse(parser.prog, f"{message}{hint}")


def _strange_flags(parser: ArgumentParser, argv: Sequence[str]) -> list[str]:
    """Return the arguments that look like an option and are none."""
    given = itertools.takewhile(lambda argument: argument != "--", argv)
    known = parser._option_string_actions
    return [flag for flag in given if flag.startswith("--") and flag.split("=")[0] not in known]


def _problems(error: ValidationError | SettingsError) -> str:
    if isinstance(error, SettingsError):
        return str(error)
    return "; ".join(
        # What concerns several options at once names them itself.
        (f"--{str(problem['loc'][0]).replace('_', '-')}: " if problem["loc"] else "")
        + problem["msg"].removeprefix("Value error, ")
        for problem in error.errors(include_url=False, include_input=False)
    )
