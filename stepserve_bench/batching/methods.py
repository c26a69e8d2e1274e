"""The ways to form batches that are compared, by name: ``static+padded``, ``continuous+paged`` …"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from stepserve.protocol.choices import Attention, Batching
from stepserve.protocol.errors import InvalidRequest

SPLIT_FUSE = "split-fuse"

BASELINE, STATIC_PAGED = "static+padded", "static+paged"
PADDED, GROUPED, PAGED = "continuous+padded", "continuous+grouped", "continuous+paged"
PADDED_SPLIT, PAGED_SPLIT = f"{PADDED}+{SPLIT_FUSE}", f"{PAGED}+{SPLIT_FUSE}"
DEFAULT = ",".join((BASELINE, STATIC_PAGED, PADDED, PADDED_SPLIT, GROUPED, PAGED, PAGED_SPLIT))


@dataclass(frozen=True, slots=True)
class Budgets:
    """Tokens in a step: ``whole`` never splits a prompt, the others do.

    A rectangle has a budget of its own: each token of a prompt's chunk is one more position
    in every row that decodes.
    """

    whole: int
    split_fuse: int
    padded_split_fuse: int


@dataclass(frozen=True, slots=True)
class Method:
    """How batches are formed, how they are attended, and whether prompts are split."""

    batching: Batching
    attention: Attention
    has_split_fuse: bool = False

    @property
    def name(self) -> str:
        parts = [self.batching, self.attention, *([SPLIT_FUSE] if self.has_split_fuse else [])]
        return "+".join(parts)

    def flags(self, budgets: Budgets) -> dict[str, object]:
        """Return its flags, with the budget that it is meant to have."""
        split = budgets.padded_split_fuse if self.attention == "padded" else budgets.split_fuse
        return {
            "batching": self.batching,
            "attention": self.attention,
            "max_step_tokens": split if self.has_split_fuse else budgets.whole,
        }


def parse_methods(text: str) -> list[Method]:
    """Return the methods of a list with commas between. Raises InvalidRequest."""
    return [_parse(name) for name in text.split(",")]


def _parse(name: str) -> Method:
    batching, _, rest = name.strip().partition("+")
    attention, _, split = rest.partition("+")
    is_known = batching in get_args(Batching) and attention in get_args(Attention)
    if not is_known or split not in ("", SPLIT_FUSE):
        form = "static|continuous + padded|grouped|paged, and maybe + split-fuse"
        raise InvalidRequest("systems", f"{name!r} is not {form}")
    return Method(batching, attention, bool(split))  # type: ignore[arg-type]
