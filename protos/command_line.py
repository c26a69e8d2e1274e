"""Settings from flags, ``STEPSERVE_*`` variables and defaults, alike for every command."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings, CliApp, CliSettingsSource, SettingsError

S = TypeVar("S", bound=BaseSettings)


def parse_settings(settings_class: type[S], prog: str, argv: Sequence[str]) -> S:
    """Return the settings that ``argv`` and the environment give.

    Raises SystemExit: status 0 after printing help, 2 after saying what is wrong.
    """
    source: CliSettingsSource[S] = CliSettingsSource(
        settings_class,
        cli_prog_name=prog,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )
    try:
        return CliApp.run(settings_class, cli_args=list(argv), cli_settings_source=source)
    except (ValidationError, SettingsError) as error:
        print(f"{prog}: {_problems(error)}\n{prog} --help lists the options.", file=sys.stderr)
        raise SystemExit(2) from None


def _problems(error: ValidationError | SettingsError) -> str:
    if isinstance(error, SettingsError):
        return str(error)
    return "; ".join(
        f"--{'.'.join(map(str, problem['loc'])).replace('_', '-')}: "
        f"{problem['msg'].removeprefix('Value error, ')}"
        for problem in error.errors(include_url=False, include_input=False)
    )
