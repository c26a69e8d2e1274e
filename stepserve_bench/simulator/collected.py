"""What a simulation came to: counted as it runs, in memory that does not grow with its tokens."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from stepserve_bench.measure.figures import percentile
from stepserve_bench.simulator.histogram import Histogram
from stepserve_bench.simulator.job import Job
from stepserve_bench.simulator.system import System

_MAX_POINTS = 2_000


@dataclass(slots=True)
class Group:
    """The figures of one stream of jobs, in seconds; ``urgent`` ones are counted apart as well."""

    first_s: array[float] = field(default_factory=lambda: array("d"))
    latency_s: array[float] = field(default_factory=lambda: array("d"))
    urgent_first_s: array[float] = field(default_factory=lambda: array("d"))
    gap_s: Histogram = field(default_factory=Histogram)
    num_submitted: int = 0
    num_tokens: int = 0

    @property
    def num_ended(self) -> int:
        return len(self.latency_s)

    def figures(self) -> dict[str, float]:
        """Return times to first token and between tokens (ms), and latencies (s)."""
        latency_s = sorted(self.latency_s)
        first_s = sorted(self.first_s)
        return {
            "jobs": len(latency_s),
            "ttft_ms_mean": _mean(first_s) * 1e3,
            "ttft_ms_p50": percentile(first_s, 0.5) * 1e3,
            "ttft_ms_p99": percentile(first_s, 0.99) * 1e3,
            "itl_ms_mean": self.gap_s.mean * 1e3,
            "itl_ms_p50": self.gap_s.quantile(0.5) * 1e3,
            "itl_ms_p99": self.gap_s.quantile(0.99) * 1e3,
            "latency_s_mean": _mean(latency_s),
            "latency_s_p50": percentile(latency_s, 0.5),
            "latency_s_p90": percentile(latency_s, 0.9),
            "latency_s_p99": percentile(latency_s, 0.99),
        }


class Collected:
    """Everything that is counted over a run; ``figures`` puts it into words."""

    def __init__(self, system: System, num_groups: int) -> None:
        self._system = system
        self.groups = [Group() for _ in range(num_groups)]
        self.step_us = Histogram()
        self.num_rows = self.num_positions = self.num_useful = 0
        self.busy_us = 0.0
        self.block_use = 0.0
        # Between the ends of a tenth and of nine tenths of the jobs; idle by worker and stage.
        self.steady_requests_per_s = float("nan")
        self.stage_idle_shares: list[float] = []
        self.first_arrival_s = float("inf")
        self.last_end_s = 0.0
        self.num_preemptions = self.num_computed_twice = self.num_prefix_hits = 0
        self.series = Series()

    def first_token(self, job: Job, now_s: float) -> None:
        group = self.groups[job.group]
        wait_s = now_s - job.arrival_s
        group.first_s.append(wait_s)
        if job.priority > 0:
            group.urgent_first_s.append(wait_s)

    def ended(self, job: Job, now_s: float) -> None:
        group = self.groups[job.group]
        group.latency_s.append(now_s - job.arrival_s)
        group.num_tokens += job.num_done
        self.last_end_s = max(self.last_end_s, now_s)

    @property
    def num_ended(self) -> int:
        return sum(group.num_ended for group in self.groups)

    @property
    def span_s(self) -> float:
        """From the first arrival to the last end."""
        return max(self.last_end_s - self.first_arrival_s, 1e-9)

    @property
    def everybody(self) -> Group:
        """All groups as one."""
        if len(self.groups) == 1:
            return self.groups[0]
        whole = Group()
        for group in self.groups:
            whole.first_s.extend(group.first_s)
            whole.latency_s.extend(group.latency_s)
            whole.urgent_first_s.extend(group.urgent_first_s)
            whole.gap_s.merge(group.gap_s)
            whole.num_tokens += group.num_tokens
        return whole

    def figures(self) -> dict[str, float]:
        """Return the figures by the names that the benchmarks use; shares are of 1."""
        everybody, system, span_s = self.everybody, self._system, self.span_s
        num_steps = max(1, self.step_us.count)
        worker_s = span_s * system.num_workers
        return {
            "requests_per_s": everybody.num_ended / span_s,
            "output_tokens_per_s": everybody.num_tokens / span_s,
            **everybody.figures(),
            "num_steps": self.step_us.count,
            "rows_per_step": self.num_rows / num_steps,
            "occupancy": self.num_rows / num_steps / system.max_batch_size,
            "padded_share": 1.0 - self.num_useful / max(1, self.num_positions),
            "step_ms_mean": self.step_us.mean / 1e3,
            "step_ms_p50": self.step_us.quantile(0.5) / 1e3,
            "step_ms_p99": self.step_us.quantile(0.99) / 1e3,
            "worker_busy_share": self.busy_us / 1e6 / worker_s / system.num_stages,
            "steady_requests_per_s": self.steady_requests_per_s,
            "bubble_share": _mean(self.stage_idle_shares),
            "block_use_mean": self.block_use,
            "preemptions": self.num_preemptions,
            "tokens_computed_twice": self.num_computed_twice,
            "computed_twice_share": self.num_computed_twice / max(1, self.num_useful),
            "prefix_hit_tokens": self.num_prefix_hits,
            "simulated_s": span_s,
        }


class Series:
    """Points over time for the pictures: (seconds, rows, blocks held); thinned as they grow."""

    def __init__(self) -> None:
        self.points: list[tuple[float, int, int]] = []
        self._stride = 1
        self._count = 0

    def add(self, time_s: float, num_rows: int, num_blocks: int) -> None:
        self._count += 1
        if self._count % self._stride:
            return
        self.points.append((time_s, num_rows, num_blocks))
        if len(self.points) >= _MAX_POINTS:
            del self.points[::2]
            self._stride *= 2


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def capacity(saturated: Collected) -> float:
    """Return the jobs a second of a run at saturation, without its filling and its draining.

    The jobs have all arrived at the start, so that their latencies are the times of their ends.
    """
    ends_s = sorted(saturated.everybody.latency_s)
    first, last = len(ends_s) // 10, len(ends_s) * 9 // 10
    return (last - first) / (ends_s[last] - ends_s[first])
