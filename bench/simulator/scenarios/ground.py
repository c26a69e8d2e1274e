"""What every experiment stands on: one system, one cost model, one kind of job."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from bench.lengths import JobLengths
from bench.simulator.arrivals import Poisson
from bench.simulator.collected import Collected
from bench.simulator.runs import Runner
from bench.simulator.system import System
from bench.simulator.workload import Stream


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A claim, the figure that was found, and its bound: a floor, or a ceiling."""

    claim: str
    value: float
    bound: float
    is_ceiling: bool = False

    @property
    def is_met(self) -> bool:
        return self.value <= self.bound if self.is_ceiling else self.value >= self.bound

    def as_json(self) -> dict[str, Any]:
        return {
            "claim": self.claim,
            "value": self.value,
            "at_most" if self.is_ceiling else "at_least": self.bound,
            "is_met": self.is_met,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What an experiment found: its targets, and the figures behind them."""

    name: str
    targets: tuple[Target, ...]
    details: dict[str, float] = field(default_factory=dict)

    @property
    def is_met(self) -> bool:
        return all(target.is_met for target in self.targets)

    def as_json(self) -> dict[str, Any]:
        targets = [target.as_json() for target in self.targets]
        return {"name": self.name, "targets": targets, **self.details}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """``num_jobs`` is how many a run has whose length is not given by time."""

    system: System
    runner: Runner
    lengths: JobLengths
    num_jobs: int = 3_000

    def run(self, *streams: Stream, **changes: Any) -> Collected:
        """Simulate the streams on the system with these settings changed."""
        system = replace(self.system, **changes)
        self.runner.console.print(f"  {_describe(system)}", highlight=False)
        return self.runner.run(system, streams)

    def saturate(self, **changes: Any) -> Collected:
        """Run all jobs, all there at the start."""
        return self.run(Stream(lengths=self.lengths, num_jobs=self.num_jobs), **changes)

    def poisson(self, rate: float, **changes: Any) -> Collected:
        """Run all jobs as they come, so many a second."""
        stream = Stream(arrivals=Poisson(rate), lengths=self.lengths, num_jobs=self.num_jobs)
        return self.run(stream, **changes)


def _describe(system: System) -> str:
    return (
        f"{system.name}, {system.policy}, {system.num_workers} x {system.max_batch_size} places, "
        f"{system.max_step_tokens} tokens a step, {system.num_blocks} blocks"
    )
