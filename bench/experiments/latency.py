"""Continuous beside static batches at one Poisson load: how long a job takes on average."""

from __future__ import annotations

from typing import Any

from bench.experiments.trial import Trial
from bench.targets import at_most

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
        **at_most(ratio, TARGET),
        "static_requests_per_s": capacity,
        "num_jobs": len(arrivals),
        **figures,
    }
