"""What the comparison of ways to form batches aims at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stepserve_bench.batching.systems import BASELINE, PADDED, PADDED_SPLIT, PAGED, STATIC_PAGED
from stepserve_bench.measure.limits import of_speeds, with_limit
from stepserve_bench.measure.targets import at_least, at_most

OVER_STATIC, BOUND_SHARE, PAGED_OVER_PADDED, PREDICTION_ERROR = 2.3, 0.85, 1.25, 0.15

_Figures = Mapping[str, Mapping[str, float]]


def targets(
    figures: _Figures, bound: float, predicted: Mapping[str, float]
) -> dict[str, dict[str, Any]]:
    """Return what is aimed at, as far as the systems that were measured tell.

    What batching alone does, and makes of the workload's bound, is judged beside static
    batches that attend alike: in time, and in steps, which knows nothing of how much less a
    step with fewer rows costs. Of the rectangles it is the faster one that counts.
    ``predicted`` are requests/s by the simulator.
    """
    speeds = {name: found["requests_per_s"] for name, found in figures.items()}
    padded = max(speeds.keys() & {PADDED, PADDED_SPLIT}, key=speeds.__getitem__, default=PADDED)
    aims = [(BASELINE, OVER_STATIC), (STATIC_PAGED, OVER_STATIC), (padded, PAGED_OVER_PADDED)]
    found = {}
    for theirs, target in aims:
        if PAGED in speeds and theirs in speeds:
            limit = of_speeds(PAGED, theirs, figures)
            if theirs != padded and bound < target:
                limit = f"the workload's own bound is {bound:.2f}; {limit}"
            speedup = speeds[PAGED] / speeds[theirs]
            found[f"{PAGED} over {theirs}"] = with_limit(at_least(speedup, target), limit)
    if PAGED in figures and STATIC_PAGED in figures:
        found |= _shares_of(bound, figures)
    if predicted:
        errors = {name: predicted[name] / speeds[name] - 1.0 for name in predicted}
        worst = max(errors, key=lambda name: abs(errors[name]))
        found["largest error of the simulated requests/s"] = with_limit(
            at_most(abs(errors[worst]), PREDICTION_ERROR), f"{worst}: {errors[worst]:+.1%}"
        )
    return found


def _shares_of(bound: float, figures: _Figures) -> dict[str, dict[str, Any]]:
    ours, theirs = figures[PAGED], figures[STATIC_PAGED]
    speedup = ours["requests_per_s"] / theirs["requests_per_s"]
    fewer = theirs["num_steps"] / ours["num_steps"]
    occupancy = ours.get("occupancy", float("nan"))
    filled = f"{occupancy:.0%} of the places are filled, the emptying at the end included"
    limits = {
        "requests/s": (speedup, of_speeds(PAGED, STATIC_PAGED, figures)),
        "steps": (fewer, filled),
    }
    return {
        f"{PAGED} over {STATIC_PAGED} in {unit}, as a share of the bound": with_limit(
            at_least(value / bound, BOUND_SHARE), limit
        )
        for unit, (value, limit) in limits.items()
    }
