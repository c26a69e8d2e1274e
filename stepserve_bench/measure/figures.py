"""The figures of jobs that every benchmark reports, and what each means."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from stepserve_bench.workloads.outcome import JobTimes


def percentile(values: Sequence[float], fraction: float) -> float:
    """Return the nearest-rank percentile, of a fraction from 0 to 1; NaN of nothing."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    # The product may be a rounding error above a whole number.
    return ordered[max(0, math.ceil(fraction * len(ordered) - 1e-9) - 1)]


def figures(jobs: Sequence[JobTimes], peak_memory_bytes: int) -> dict[str, float]:
    """Return throughput, times to first token and between tokens (ms), latency, memory (MiB).

    Times between tokens are every gap between two tokens of one job; tokens that came
    together have a gap of 0.
    """
    span_s = max(j.token_times_s[-1] for j in jobs) - min(j.submitted_s for j in jobs)
    firsts_ms = [(j.token_times_s[0] - j.submitted_s) * 1e3 for j in jobs]
    gaps_ms = [(b - a) * 1e3 for j in jobs for a, b in pairwise(j.token_times_s)]
    latencies_s = [j.token_times_s[-1] - j.submitted_s for j in jobs]
    return {
        "requests_per_s": len(jobs) / span_s,
        "output_tokens_per_s": sum(len(j.token_times_s) for j in jobs) / span_s,
        "ttft_ms_mean": sum(firsts_ms) / len(firsts_ms),
        "ttft_ms_p50": percentile(firsts_ms, 0.5),
        "ttft_ms_p99": percentile(firsts_ms, 0.99),
        "itl_ms_p50": percentile(gaps_ms, 0.5),
        "itl_ms_p99": percentile(gaps_ms, 0.99),
        "latency_s_mean": sum(latencies_s) / len(latencies_s),
        "latency_s_p50": percentile(latencies_s, 0.5),
        "latency_s_p90": percentile(latencies_s, 0.9),
        "latency_s_p99": percentile(latencies_s, 0.99),
        "peak_memory_mib": peak_memory_bytes / 2**20,
    }


def ratios(ours: Mapping[str, float], theirs: Mapping[str, float]) -> dict[str, float]:
    """Return ours over theirs for each figure that is not 0 there, and no share already."""
    return {
        name: ours[name] / theirs[name]
        for name in ours
        if theirs.get(name) and not name.endswith("_share")
    }
