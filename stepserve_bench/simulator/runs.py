"""Runs that say how far they are, and that find the capacity first where a load is asked for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console

from stepserve_bench.simulator.collected import Collected, capacity
from stepserve_bench.simulator.cost import Costs, costs_for
from stepserve_bench.simulator.inputs import Demand
from stepserve_bench.simulator.simulation import Simulation
from stepserve_bench.simulator.streams import Stream, Workload
from stepserve_bench.simulator.system import System

_SAY_EVERY_S = 5.0
# A capacity is as exact with so many jobs a place as with more.
_CAPACITY_JOBS_PER_PLACE = 30


@dataclass(frozen=True, slots=True)
class Runner:
    """Simulates with these costs and this seed; says on ``console`` what takes long."""

    costs: Costs
    seed: int
    console: Console

    def run(self, system: System, streams: Sequence[Stream]) -> Collected:
        """Simulate the streams on the system."""
        workload = Workload(tuple(streams), self.seed)
        simulation = Simulation(system, workload, costs_for(self.costs, system.attention))
        started_s = said_s = time.monotonic()

        def progress(running: Simulation) -> None:
            nonlocal said_s
            now_s = time.monotonic()
            if now_s - said_s > _SAY_EVERY_S:
                said_s = now_s
                self.console.print(
                    f"  {running.collected.num_ended:,} of {running.num_jobs:,} jobs ended, "
                    f"{running.now_s:,.0f} s simulated in {now_s - started_s:,.0f} s",
                    highlight=False,
                )

        return simulation.run(progress)

    def capacity(self, system: System, demand: Demand) -> float:
        """Return the jobs a second that the system ends when there are always more.

        It is measured with one worker, and multiplied.
        """
        num_jobs = min(demand.jobs, _CAPACITY_JOBS_PER_PLACE * system.max_batch_size)
        stream = Stream(
            lengths=demand.lengths,
            num_jobs=num_jobs,
            max_tokens=demand.max_tokens,
            prefix_tokens=demand.prefix_tokens,
        )
        return system.num_workers * capacity(self.run(system.alone, [stream]))
