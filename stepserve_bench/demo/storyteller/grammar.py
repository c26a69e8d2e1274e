"""Generator and recogniser of the little stories, both driven by the rules in `templates.py`.

A story is a context-free expansion of a starting rule, with story-wide variables on top: the first
slot that names a variable fixes its value, and every later one, pronouns included, must agree.
The recogniser walks the same rules with backtracking, so a text parses if and only if the
generator can produce it.
"""

import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from stepserve_bench.demo.storyteller.lexicon import SLOTS, Slot
from stepserve_bench.demo.storyteller.templates import RULES

Bindings = dict[str, str]
"""Value of every story-wide variable that has been fixed so far."""

Template = tuple["Part", ...]

_PART = re.compile(r"\{(?P<name>\w+)\}|\[(?P<optional>[^\]]*)\]")


@dataclass(frozen=True)
class Literal:
    """Text that stands for itself."""

    text: str


@dataclass(frozen=True)
class Reference:
    """The name of a rule or of a slot."""

    name: str


@dataclass(frozen=True)
class Optional:
    """Parts that are there or left out together."""

    parts: Template


Part = Literal | Reference | Optional


class Piece(NamedTuple):
    """A stretch of generated text; `settled` says that a variable fixed before determines it."""

    text: str
    settled: bool


@cache
def compile_template(template: str) -> Template:
    """Split a template into literals, references and optional parts."""
    parts: list[Part] = []
    end = 0
    for found in _PART.finditer(template):
        if found.start() > end:
            parts.append(Literal(template[end : found.start()]))
        if found["name"] is not None:
            parts.append(Reference(found["name"]))
        else:
            parts.append(Optional(compile_template(found["optional"])))
        end = found.end()
    if end < len(template):
        parts.append(Literal(template[end:]))
    return tuple(parts)


def _allowed(slot: Slot, bindings: Bindings) -> list[str]:
    """Return the values that the slot's variable may take, given what is fixed already."""
    return [bindings[slot.variable]] if slot.variable in bindings else list(slot.spelling)


def _generate(parts: Template, rng: random.Random, bindings: Bindings) -> Iterator[Piece]:
    """Yield the pieces of one random expansion; fixes variables in `bindings` on the way."""
    for part in parts:
        if isinstance(part, Literal):
            yield Piece(part.text, settled=False)
        elif isinstance(part, Optional):
            if rng.random() < 0.5:
                yield from _generate(part.parts, rng, bindings)
        elif part.name in SLOTS:
            slot = SLOTS[part.name]
            settled = slot.variable in bindings
            value = rng.choice(_allowed(slot, bindings))
            bindings[slot.variable] = value
            yield Piece(slot.spelling[value], settled)
        else:
            chosen = compile_template(rng.choice(RULES[part.name]))
            yield from _generate(chosen, rng, bindings)


def _match_slot(
    slot: Slot, text: str, position: int, bindings: Bindings
) -> Iterator[tuple[int, Bindings]]:
    """Yield the end position and the bindings of every reading of the slot at `position`."""
    for value in _allowed(slot, bindings):
        if text.startswith(slot.spelling[value], position):
            yield position + len(slot.spelling[value]), bindings | {slot.variable: value}


def _match(
    parts: Template, text: str, position: int, bindings: Bindings
) -> Iterator[tuple[int, Bindings]]:
    """Yield the end position and the bindings of every reading of `parts` at `position`."""
    if not parts:
        yield position, bindings
        return
    part, rest = parts[0], parts[1:]
    if isinstance(part, Literal):
        if text.startswith(part.text, position):
            yield from _match(rest, text, position + len(part.text), bindings)
    elif isinstance(part, Optional):
        yield from _match(part.parts + rest, text, position, bindings)
        yield from _match(rest, text, position, bindings)
    elif part.name in SLOTS:
        for end, bound in _match_slot(SLOTS[part.name], text, position, bindings):
            yield from _match(rest, text, end, bound)
    else:
        # A repeated alternative is only a weight for the generator.
        for alternative in dict.fromkeys(RULES[part.name]):
            yield from _match(compile_template(alternative) + rest, text, position, bindings)


def parse(text: str, start: str = "Story") -> Bindings | None:
    """Return the variables of one reading of the whole text, or None if there is none.

    start: the rule that the text must be an expansion of
    """
    for end, bindings in _match((Reference(start),), text, 0, {}):
        if end == len(text):
            return bindings
    return None


def parse_chat(request: str, reply: str) -> Bindings | None:
    """Return the variables of a request and the story told in reply, or None if they do not fit."""
    return parse(f"{request}\n{reply}", start="Chat")


def draw_story(rng: random.Random) -> list[Piece]:
    """Return the pieces of a random story; it ends with "The end."."""
    return list(_generate((Reference("Story"),), rng, {}))


def draw_drill(rng: random.Random) -> list[Piece]:
    """Return the pieces of a random text for practice; it is no story."""
    return list(_generate((Reference("Drill"),), rng, {}))


def draw_chat(rng: random.Random) -> tuple[list[Piece], list[Piece]]:
    """Return the pieces of a random request and of a story that fits it."""
    pieces = list(_generate((Reference("Chat"),), rng, {}))
    border = pieces.index(Piece("\n", settled=False))
    return pieces[:border], pieces[border + 1 :]


def join(pieces: Iterable[Piece]) -> str:
    """Return the text of pieces."""
    return "".join(piece.text for piece in pieces)


def generate_story(rng: random.Random) -> str:
    """Return a random story."""
    return join(draw_story(rng))


def generate_chat(rng: random.Random) -> tuple[str, str]:
    """Return a random request and a story that fits it."""
    request, reply = draw_chat(rng)
    return join(request), join(reply)
