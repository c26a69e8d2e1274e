"""A measured value beside what is aimed at."""

from __future__ import annotations

from collections.abc import Mapping


def at_least(value: float, target: float) -> dict[str, float | bool]:
    """Return the value, and whether it is the target or more."""
    return {"value": value, "at_least": target, "is_reached": value >= target}


def at_most(value: float, target: float) -> dict[str, float | bool]:
    """Return the value, and whether it is the target or less."""
    return {"value": value, "at_most": target, "is_reached": value <= target}


def in_words(found: Mapping[str, float | bool]) -> str:
    """Return what ``at_least`` or ``at_most`` found, for a reader."""
    bound = next(name for name in ("at_least", "at_most") if name in found)
    verdict = "reached" if found["is_reached"] else "not reached"
    return f"{found['value']:.2f} (target: {bound.replace('_', ' ')} {found[bound]:g}, {verdict})"
