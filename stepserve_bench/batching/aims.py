"""What the comparison of ways to form batches aims at."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from stepserve_bench.batching.methods import BASELINE, PADDED, PADDED_SPLIT, PAGED, STATIC_PAGED
from stepserve_bench.report.targets import at_least, at_most

OVER_STATIC, BOUND_SHARE, PAGED_OVER_PADDED, PREDICTION_ERROR = 2.3, 0.85, 1.25, 0.15

_Figures = Mapping[str, Mapping[str, float]]


def aims(
    figures: _Figures, bound: float, predicted: Mapping[str, float]
) -> dict[str, dict[str, Any]]:
    """Return what is aimed at, as far as the methods that were measured tell.

    What batching alone does, and makes of the workload's bound, is judged beside static
    batches that attend alike: in time, and in steps, which knows nothing of how much less a
    step with fewer rows costs. Of the rectangles it is the faster one that counts.
    ``predicted`` are requests/s by the simulator.
    """
    speeds = {name: found["requests_per_s"] for name, found in figures.items()}
    padded = max(speeds.keys() & {PADDED, PADDED_SPLIT}, key=speeds.__getitem__, default=PADDED)
    floors = [(BASELINE, OVER_STATIC), (STATIC_PAGED, OVER_STATIC), (padded, PAGED_OVER_PADDED)]
    found = {}
    for theirs, target in floors:
        if PAGED in speeds and theirs in speeds:
            limit = _of_speeds(PAGED, theirs, figures)
            if theirs != padded and bound < target:
                limit = f"the workload's own bound is {bound:.2f}; {limit}"
            speedup = speeds[PAGED] / speeds[theirs]
            found[f"{PAGED} over {theirs}"] = at_least(speedup, target, limit)
    if PAGED in figures and STATIC_PAGED in figures:
        found |= _shares_of(bound, figures)
    if predicted:
        errors = {name: predicted[name] / speeds[name] - 1.0 for name in predicted}
        worst = max(errors, key=lambda name: abs(errors[name]))
        found["largest error of the simulated requests/s"] = at_most(
            abs(errors[worst]), PREDICTION_ERROR, f"{worst}: {errors[worst]:+.1%}"
        )
    return found


def _shares_of(bound: float, figures: _Figures) -> dict[str, dict[str, Any]]:
    ours, theirs = figures[PAGED], figures[STATIC_PAGED]
    speedup = ours["requests_per_s"] / theirs["requests_per_s"]
    fewer = theirs["num_steps"] / ours["num_steps"]
    occupancy = ours.get("occupancy", float("nan"))
    filled = f"{occupancy:.0%} of the places are filled, the emptying at the end included"
    limits = {
        "requests/s": (speedup, _of_speeds(PAGED, STATIC_PAGED, figures)),
        "steps": (fewer, filled),
    }
    return {
        f"{PAGED} over {STATIC_PAGED} in {unit}, as a share of the bound": at_least(
            value / bound, BOUND_SHARE, limit
        )
        for unit, (value, limit) in limits.items()
    }


def _of_speeds(ours: str, theirs: str, figures: Mapping[str, Mapping[str, float]]) -> str:
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
