"""What the comparison of ways to form batches aims at."""

from __future__ import annotations

from collections.abc import Mapping

from bench.batching_systems import BASELINE, PADDED, PAGED
from bench.targets import at_least, at_most

OVER_STATIC, BOUND_SHARE, PAGED_OVER_PADDED, PREDICTION_ERROR = 2.3, 0.85, 1.25, 0.15


def targets(
    figures: Mapping[str, Mapping[str, float]], bound: float, predicted: Mapping[str, float]
) -> dict[str, dict[str, float | bool]]:
    """Return what is aimed at, as far as the systems that were measured tell.

    What batching alone makes of the workload's bound is judged beside the static batches that
    attend alike. ``predicted`` are requests/s by the simulator.
    """
    speeds = {name: found["requests_per_s"] for name, found in figures.items()}
    aims = (
        (PAGED, BASELINE, 1.0, OVER_STATIC),
        (PADDED, BASELINE, 1.0, OVER_STATIC),
        (PADDED, BASELINE, bound, BOUND_SHARE),
        (PAGED, "static+paged", bound, BOUND_SHARE),
        (PAGED, PADDED, 1.0, PAGED_OVER_PADDED),
    )
    found = {
        f"{ours} over {theirs}" + ", as a share of the bound" * (divisor != 1.0): at_least(
            speeds[ours] / speeds[theirs] / divisor, target
        )
        for ours, theirs, divisor, target in aims
        if ours in speeds and theirs in speeds
    }
    if predicted:
        errors = [abs(predicted[name] / speeds[name] - 1.0) for name in predicted]
        found["largest error of the simulated requests/s"] = at_most(max(errors), PREDICTION_ERROR)
    return found
