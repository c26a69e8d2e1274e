"""Why a target was missed, as far as the figures tell."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def with_limit(found: Mapping[str, Any], limit: str) -> dict[str, Any]:
    """Return what was found, and where the target was missed the sentence that says why."""
    return dict(found) if found["is_met"] else {**found, "limit": limit}


def of_speeds(ours: str, theirs: str, figures: Mapping[str, Mapping[str, float]]) -> str:
    """Return what the ratio of two throughputs on the same jobs is made of.

    It is the ratio of the numbers of steps, times that of what a step takes.
    """
    a, b = figures[ours], figures[theirs]
    num_steps = b["num_steps"] / a["num_steps"]
    duration = num_steps / (a["requests_per_s"] / b["requests_per_s"])
    return (
        f"{theirs} takes {num_steps:.2f} times the steps of {ours}, but a step of {ours} "
        f"takes {duration:.2f} times as long: {_step(a)} against {_step(b)}"
    )


def _step(figures: Mapping[str, float]) -> str:
    period_ms, num_rows, padded = (
        figures.get(name, math.nan)
        for name in ("step_period_ms_mean", "rows_per_step", "padded_share")
    )
    return f"{period_ms:.2f} ms for {num_rows:.1f} rows ({padded:.0%} padding)"
