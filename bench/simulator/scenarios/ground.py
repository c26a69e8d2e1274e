"""What every experiment stands on: one system, one cost model, one kind of job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from bench.lengths import JobLengths
from bench.simulator.arrivals import Poisson
from bench.simulator.collected import Collected
from bench.simulator.cost import Costs, Latencies, costs_for
from bench.simulator.simulation import Simulation
from bench.simulator.system import System
from bench.simulator.workload import Stream, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A claim, the figure that was found, and the target it must meet.

    A target is a floor, or a ceiling where ``is_ceiling``.
    """

    name: str
    claim: str
    value: float
    target: float
    is_ceiling: bool = False
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def is_met(self) -> bool:
        return self.value <= self.target if self.is_ceiling else self.value >= self.target

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "is_met": self.is_met}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """``num_jobs`` is how many a run at saturation has; ``say`` tells the user what is done."""

    system: System
    costs: Costs
    lengths: JobLengths
    latencies: Latencies = Latencies()  # noqa: RUF009
    num_jobs: int = 3_000
    seed: int = 0
    say: Callable[[str], None] = lambda _: None

    def run(self, *streams: Stream, **changes: Any) -> Collected:
        """Simulate the streams on the system with these settings changed."""
        system = replace(self.system, **changes)
        self.say(f"  {describe(system)}")
        workload = Workload(streams, self.seed)
        costs = costs_for(self.costs, system.attention)
        return Simulation(system, workload, costs, self.latencies).run()

    def saturate(self, **changes: Any) -> Collected:
        """Run all jobs, all there at the start."""
        return self.run(Stream(lengths=self.lengths, num_jobs=self.num_jobs), **changes)

    def poisson(self, rate: float, **changes: Any) -> Collected:
        """Run all jobs as they come, so many a second."""
        stream = Stream(arrivals=Poisson(rate), lengths=self.lengths, num_jobs=self.num_jobs)
        return self.run(stream, **changes)


def capacity(saturated: Collected) -> float:
    """Return the jobs a second of a run at saturation, without its filling and its draining.

    The jobs have all arrived at the start, so that their latencies are the times of their ends.
    """
    ends_s = sorted(saturated.everybody.latency_s)
    first, last = len(ends_s) // 10, len(ends_s) * 9 // 10
    return (last - first) / (ends_s[last] - ends_s[first])


def describe(system: System) -> str:
    """Return the settings that tell runs apart."""
    return (
        f"{system.batching}+{system.attention}, {system.policy}, {system.num_workers} x "
        f"{system.max_batch_size} places, {system.max_step_tokens} tokens a step"
    )
