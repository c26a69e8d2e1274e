"""A measured value beside what is aimed at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A claim, the figure that was found, and its bound: a floor, or a ceiling.

    ``limit`` is the sentence that says what limits the figure, for where the bound is missed.
    """

    claim: str = ""
    value: float
    bound: float
    is_ceiling: bool = False
    limit: str = ""

    @property
    def is_met(self) -> bool:
        return self.value <= self.bound if self.is_ceiling else self.value >= self.bound

    def as_json(self) -> dict[str, Any]:
        """Return it by names; without a claim where none was made."""
        return {
            **({"claim": self.claim} if self.claim else {}),
            "value": self.value,
            "at_most" if self.is_ceiling else "at_least": self.bound,
            "is_met": self.is_met,
            **({"limit": self.limit} if self.limit and not self.is_met else {}),
        }


def at_least(value: float, bound: float, limit: str) -> dict[str, Any]:
    """Return as JSON whether the value is the bound or more, and where not, what limits it."""
    return Target(value=value, bound=bound, limit=limit).as_json()


def at_most(value: float, bound: float, limit: str) -> dict[str, Any]:
    """Return as JSON whether the value is the bound or less, and where not, what limits it."""
    return Target(value=value, bound=bound, is_ceiling=True, limit=limit).as_json()


def in_words(found: Mapping[str, Any]) -> str:
    """Return what ``at_least`` or ``at_most`` found, for a reader."""
    bound = next(name for name in ("at_least", "at_most") if name in found)
    verdict = "met" if found["is_met"] else "missed"
    return f"{found['value']:.2f} (target: {bound.replace('_', ' ')} {found[bound]:g}, {verdict})"
