"""What the text of an output has to be: the one form that requests, records and steps carry.

It is kept as it was asked for; what follows it is compiled where tokens are chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any

from stepserve.protocol.limits import MaxItems

MAX_CHOICES = 4096
# Of a schema, an expression, or all choices together; of a grammar, which may be dearer. What these
# allow takes a third of a second to compile, or for one token, at the very most.
MAX_SOURCE_CHARS = 64 * 1024
MAX_GRAMMAR_CHARS = 32 * 1024


@dataclass(frozen=True, slots=True)
class StructuredOutputs:
    """One of the fields is given; each is called as vLLM calls it.

    ``json`` is a JSON Schema, as text: the order of an object's properties is the order in which
    they are written. ``regex`` is matched by the whole text, ``choice`` has the texts that are
    possible, ``grammar`` is in Lark's or llama.cpp's notation, ``json_object`` any JSON object.
    """

    json: str = ""
    regex: str = ""
    choice: Annotated[Sequence[str], MaxItems(MAX_CHOICES)] = ()
    grammar: str = ""
    json_object: bool = False

    @classmethod
    def view(cls, message: Any) -> StructuredOutputs:
        """Return what a message of these fields says; its choices are not copied."""
        return cls(**{each.name: getattr(message, each.name) for each in fields(cls)})

    @classmethod
    def of(cls, message: Any) -> StructuredOutputs:
        """Return what a message of these fields says, as a value that stays."""
        view = cls.view(message)
        return replace(view, choice=tuple(view.choice))

    @property
    def values(self) -> dict[str, Any]:
        """Every field by its name."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @property
    def kinds(self) -> tuple[str, ...]:
        """The names of the fields that are given."""
        return tuple(each.name for each in fields(self) if getattr(self, each.name))

    def problem(self) -> str:
        """Return what is wrong with its form, or nothing."""
        if len(self.kinds) != 1:
            names = ", ".join(each.name for each in fields(self))
            given = f"not {' and '.join(self.kinds)}" if self.kinds else "not an empty one"
            return f"takes exactly one of {names}, {given}"
        num_chars = sum(map(len, (self.json, self.regex, self.grammar, *self.choice)))
        most = MAX_GRAMMAR_CHARS if self.grammar else MAX_SOURCE_CHARS
        if num_chars > most:
            return f"has {num_chars} characters, at most {most} are possible"
        return ""
