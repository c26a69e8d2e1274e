"""What the comparison of ways to form batches aims at."""

from __future__ import annotations

from collections.abc import Mapping

from bench.batching_systems import BASELINE, PADDED, PAGED, STATIC_PAGED
from bench.targets import at_least, at_most

OVER_STATIC, BOUND_SHARE, PAGED_OVER_PADDED, PREDICTION_ERROR = 2.3, 0.85, 1.25, 0.15


def targets(
    figures: Mapping[str, Mapping[str, float]], bound: float, predicted: Mapping[str, float]
) -> dict[str, dict[str, float | bool]]:
    """Return what is aimed at, as far as the systems that were measured tell.

    What batching alone does, and makes of the workload's bound, is judged beside static
    batches that attend alike: in time, and in steps, which knows nothing of how much less a
    step with fewer rows costs. ``predicted`` are requests/s by the simulator.
    """
    speeds = {name: found["requests_per_s"] for name, found in figures.items()}
    aims = [
        (f"{PAGED} over {BASELINE}", PAGED, BASELINE, OVER_STATIC),
        (f"{PAGED} over {STATIC_PAGED}", PAGED, STATIC_PAGED, OVER_STATIC),
        (f"{PAGED} over {PADDED}", PAGED, PADDED, PAGED_OVER_PADDED),
    ]
    found = {
        what: at_least(speeds[ours] / speeds[theirs], target)
        for what, ours, theirs, target in aims
        if ours in speeds and theirs in speeds
    }
    if PAGED in figures and STATIC_PAGED in figures:
        ours, theirs = figures[PAGED], figures[STATIC_PAGED]
        shares = {
            "requests/s": ours["requests_per_s"] / theirs["requests_per_s"] / bound,
            "steps": theirs["num_steps"] / ours["num_steps"] / bound,
        }
        for unit, share in shares.items():
            what = f"{PAGED} over {STATIC_PAGED} in {unit}, as a share of the bound"
            found[what] = at_least(share, BOUND_SHARE)
    if predicted:
        errors = [abs(predicted[name] / speeds[name] - 1.0) for name in predicted]
        found["largest error of the simulated requests/s"] = at_most(max(errors), PREDICTION_ERROR)
    return found
