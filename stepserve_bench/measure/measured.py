"""What a run of jobs came to: the figures that every benchmark here reports, and their meaning."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

PACKAGES = ("torch", "transformers", "triton", "numba", "grpcio", "redis")


@dataclass(slots=True)
class JobTimes:
    """When one job was submitted and when each of its tokens came, in seconds of one clock."""

    submitted_s: float
    token_times_s: list[float] = field(default_factory=list)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile; NaN of nothing."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    # The product may be a rounding error above a whole number.
    return ordered[max(0, math.ceil(share * len(ordered) - 1e-9) - 1)]


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


def descendants(pid: int) -> list[int]:
    """Return the process's id and those of all processes below it."""
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            found += [int(child) for child in children.read_text().split()]
    return found


def peak_memory_bytes(pids: Sequence[int]) -> int:
    """Return the sum of the processes' largest resident sizes (Linux's VmHWM)."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                total += int(line.split()[1]) * 1024
    return total


def machine() -> dict[str, object]:
    """Return what a figure must be read with: processor, cores, versions, date."""
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in cpuinfo if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "date": date.today().isoformat(),
    }
