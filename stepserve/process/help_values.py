"""What an option's help says of its values: of which kind, in which unit, which by default."""

from __future__ import annotations

import re
from argparse import Action, RawDescriptionHelpFormatter

# By an option's name.
_NAMES = {
    "api_key": "KEY",
    "idempotency_key": "KEY",
    "model": "DIR|ID",
    "otlp_endpoint": "URL",
    "redis_url": "URL",
    "rendezvous": "HOST:PORT",
    "served_model": "NAME",
    "target": "HOST:PORT",
}
# By the end of its name: units, and files.
_ENDS = {
    "_bytes": "BYTES",
    "_ca": "FILE",
    "_cert": "FILE",
    "_dir": "DIR",
    "_file": "FILE",
    "_key": "FILE",
    "_ms": "MILLISECONDS",
    "_name": "NAME",
    "_out": "FILE",
    "_s": "SECONDS",
    "_url_file": "FILE",
    "_us": "MICROSECONDS",
    "host": "HOST",
    "out": "FILE",
    "picture": "FILE",
    "port": "PORT",
    "tenant": "NAME",
}
# By the type that pydantic-settings names.
_TYPES = {"float": "X", "int": "N", "Path": "FILE", "str": "TEXT"}
# Fields whose alias is their name to users; the others stay good, and are not told.
_INNER = re.compile(r"--(no-)?(as-json|every|served-model)$")
# A form that the description spells out: LOW,HIGH.
_FORM = re.compile(r"\b[A-Z]+(?:,[A-Z]+)+\b")
_DEFAULT = re.compile(r" \(default: (.*)\)$", re.DOTALL)


def value_name(action: Action) -> str | tuple[str, ...] | None:
    """Return what stands for an option's value in help, nothing for a switch's."""
    kind = action.metavar
    if not isinstance(kind, str):
        return kind
    kind = kind.removeprefix("list[").removesuffix("]")  # a list's flag takes one at a time
    if not action.option_strings or kind.startswith("{"):
        return kind
    if action.dest in _NAMES and not kind.startswith("int"):
        return _NAMES[action.dest]
    if kind.startswith("tuple["):
        form = _FORM.search(action.help or "")
        return form[0] if form else "A,B"
    ends = (name for end, name in _ENDS.items() if action.dest.endswith(end))
    return next(ends, _TYPES.get(kind, kind.upper()))


class Help(RawDescriptionHelpFormatter):
    """Help that tells defaults as they would be given, and of a switch what it changes."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)

    def _get_help_string(self, action: Action) -> str:
        text = action.help or ""
        found = _DEFAULT.search(text)
        if found is None:
            return text
        told, default = text[: found.start()], _default(found[1])
        if not default or "default:" in told:
            return told
        return f"{told} (default: {default})"

    def _format_action_invocation(self, action: Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        shown = [option for option in action.option_strings if not _INNER.match(option)]
        if action.nargs == 0:
            is_on = "(default: True)" in (action.help or "")
            # What it takes to change it; the other one stands for taking a variable back.
            return ", ".join(o for o in shown if is_on or not o.startswith("--no-"))
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(shown)} {value}"


def _default(told: str) -> str:
    """Return a default as it would be typed; nothing for none, and for a switch that is off."""
    if told in ("\0", "", "[]", "False"):
        return ""
    if told == "True":
        return "on"
    if told.startswith("(") and told.endswith(")"):
        return ",".join(map(_default, told[1:-1].rstrip(",").split(", ")))
    return told.removesuffix(".0")
