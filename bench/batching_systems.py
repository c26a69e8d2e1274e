"""The ways to form batches that are compared, by name: ``static+padded``, ``continuous+paged`` …"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from protos.errors import InvalidRequest

Batching = Literal["static", "continuous"]
Attention = Literal["padded", "grouped", "paged"]
SPLIT_FUSE = "split-fuse"

BASELINE, STATIC_PAGED = "static+padded", "static+paged"
PADDED, GROUPED, PAGED = "continuous+padded", "continuous+grouped", "continuous+paged"
DEFAULT = ",".join((BASELINE, STATIC_PAGED, PADDED, GROUPED, PAGED, f"{PAGED}+{SPLIT_FUSE}"))


@dataclass(frozen=True, slots=True)
class System:
    """How batches are formed, how they are attended, and whether prompts are split."""

    batching: Batching
    attention: Attention
    has_split_fuse: bool = False

    @property
    def name(self) -> str:
        parts = [self.batching, self.attention, *([SPLIT_FUSE] if self.has_split_fuse else [])]
        return "+".join(parts)

    def flags(self, whole: int, budget: int) -> dict[str, object]:
        """Return its flags: a step holds ``whole`` tokens without split-fuse, else ``budget``."""
        return {
            "batching": self.batching,
            "attention": self.attention,
            "max_step_tokens": budget if self.has_split_fuse else whole,
        }


def parse_systems(text: str) -> list[System]:
    """Return the systems of a list with commas between. Raises InvalidRequest."""
    return [_parse(name) for name in text.split(",")]


def _parse(name: str) -> System:
    batching, _, rest = name.strip().partition("+")
    attention, _, split = rest.partition("+")
    is_known = batching in get_args(Batching) and attention in get_args(Attention)
    if not is_known or split not in ("", SPLIT_FUSE):
        form = "static|continuous + padded|grouped|paged, and maybe + split-fuse"
        raise InvalidRequest("systems", f"{name!r} is not {form}")
    return System(batching, attention, bool(split))  # type: ignore[arg-type]
