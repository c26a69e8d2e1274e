"""Continuous beside static batches at one Poisson load: how long a job takes on average."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stepserve_bench.policies.trial import Trial
from stepserve_bench.report.targets import at_most

LOAD = 0.8  # of what static batches can do
TARGET = 0.6  # of static's mean latency, at most


def run(trial: Trial, duration_s: float) -> dict[str, Any]:
    """Return both mean latencies at 80 % of static's capacity."""
    capacity = trial.capacity(6 * trial.bed.batch_size, batching="static")
    arrivals = trial.poisson(LOAD * capacity, duration_s, "latency")
    figures = {}
    for batching in ("static", "continuous"):
        measured = trial.offered(arrivals, batching=batching)
        figures[batching] = measured.figures(trial.bed.batch_size)
    ratio = figures["continuous"]["latency_s_mean"] / figures["static"]["latency_s_mean"]
    return {
        "what": "mean latency, continuous over static, at 80 % of static's capacity",
        **at_most(ratio, TARGET, _limit(figures)),
        "static_requests_per_s": capacity,
        "num_jobs": len(arrivals),
        **figures,
    }


def _limit(figures: Mapping[str, Mapping[str, float]]) -> str:
    """Return what of a job's time is waiting for its first token, and what is steps."""
    return "; ".join(
        f"{name}: {found['ttft_ms_mean'] / 1e3:.2f} of {found['latency_s_mean']:.2f} s (mean) pass "
        f"before the first token, a step takes {found['step_ms_mean']:.2f} ms for "
        f"{found['rows_per_step']:.1f} rows"
        for name, found in figures.items()
    )
