"""A command's help: options of one kind together, and no usage of sixty lines."""

from __future__ import annotations

import inspect
from argparse import Action, ArgumentParser

from pydantic_settings import BaseSettings

from stepserve.process.help_values import value_name


def arrange_help(parser: ArgumentParser, settings_class: type[BaseSettings]) -> None:
    """Put each option under the ``HELP_GROUP`` of the class that declares it, if it has one.

    Groups are in the order in which the classes are looked through.
    """
    parser.description = inspect.cleandoc(parser.description or "")
    options = parser._optionals._group_actions
    for action in (*parser._positionals._group_actions, *options):
        _spell_out(parser, action)
        action.metavar = value_name(action)
    values = [action.metavar for action in parser._positionals._group_actions]
    parser.usage = " ".join(["%(prog)s", *map(str, values), "[options]"])
    titles = _titles(settings_class)
    for title in dict.fromkeys(filter(None, titles.values())):
        group = parser.add_argument_group(title)
        group._group_actions += [a for a in options if titles.get(a.dest) == title]
    options[:] = [action for action in options if not titles.get(action.dest)]


def _titles(settings_class: type[BaseSettings]) -> dict[str, str]:
    titles: dict[str, str] = {}
    for declaring in settings_class.__mro__:
        for name in vars(declaring).get("__annotations__", ()):
            titles.setdefault(name, vars(declaring).get("HELP_GROUP", ""))
    return titles


def _spell_out(parser: ArgumentParser, action: Action) -> None:
    """An option of one letter is known by two hyphens as well, as all others are."""
    for option in [o for o in action.option_strings if len(o) == 2 and o != "-h"]:
        action.option_strings = [*action.option_strings, f"-{option}"]
        parser._option_string_actions[f"-{option}"] = action
