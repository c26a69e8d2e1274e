"""What every experiment stands on: one system, one cost model, one kind of job."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from stepserve_bench.report.targets import Target
from stepserve_bench.simulator.collected import Collected
from stepserve_bench.simulator.runs import Runner
from stepserve_bench.simulator.streams import Stream
from stepserve_bench.simulator.system import System
from stepserve_bench.workloads.arrivals import Poisson
from stepserve_bench.workloads.lengths import JobLengths


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What an experiment found: its targets, the figures behind them, and what they leave out."""

    name: str
    targets: tuple[Target, ...]
    details: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def is_met(self) -> bool:
        return all(target.is_met for target in self.targets)

    def as_json(self) -> dict[str, Any]:
        targets = [target.as_json() for target in self.targets]
        return {"name": self.name, "targets": targets, "notes": self.notes, **self.details}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """``num_jobs`` is how many a run has whose length is not given by time.

    Jobs ask for ``max_tokens`` at most, or, where that is 0, for exactly their output.
    """

    system: System
    runner: Runner
    lengths: JobLengths
    num_jobs: int = 3_000
    max_tokens: int = 0

    def stream(self, **values: Any) -> Stream:
        """Return a stream of such jobs with these values changed."""
        given = {
            "lengths": self.lengths,
            "num_jobs": self.num_jobs,
            "max_tokens": self.max_tokens,
            **values,
        }
        return Stream(**given)

    def run(self, *streams: Stream, **changes: Any) -> Collected:
        """Simulate the streams on the system with these settings changed."""
        system = replace(self.system, **changes)
        self.runner.console.print(f"  {_describe(system)}", highlight=False)
        return self.runner.run(system, streams)

    def saturate(self, **changes: Any) -> Collected:
        """Run all jobs, all there at the start."""
        return self.run(self.stream(), **changes)

    def poisson(self, rate: float, **changes: Any) -> Collected:
        """Run all jobs as they come, so many a second."""
        return self.run(self.stream(arrivals=Poisson(rate)), **changes)


def _describe(system: System) -> str:
    return (
        f"{system.name}, {system.policy}, {system.num_workers} x {system.max_batch_size} places, "
        f"{system.max_step_tokens} tokens a step, {system.num_blocks} blocks"
    )
