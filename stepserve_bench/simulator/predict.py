"""What a benchmark's run should come to, said before or beside it."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from stepserve_bench.simulator.cost import Costs, Latencies, costs_for
from stepserve_bench.simulator.simulation import Simulation
from stepserve_bench.simulator.streams import Stream, Workload
from stepserve_bench.simulator.system import System
from stepserve_bench.workloads.arrivals import AllAtOnce, Arrivals


@dataclass(slots=True)
class _Listed:
    """Lengths that are known one by one."""

    pairs: Iterator[tuple[int, int]]

    def draw(self, chance: random.Random) -> tuple[int, int]:  # noqa: ARG002
        return next(self.pairs)


def predict(
    system: System,
    jobs: Iterable[tuple[int, int]],
    costs: Costs,
    arrivals: Arrivals = AllAtOnce(),  # noqa: B008
    latencies: Latencies | None = None,
) -> dict[str, float]:
    """Return the figures of running jobs of these (prompt, output) tokens on the system.

    The outputs are exactly as long as they ask for. ``arrivals`` say when they come, in order:
    ``At`` the times that a benchmark uses, ``ClosedLoop``, or (by default) all at once.
    """
    pairs = list(jobs)
    stream = Stream(arrivals=arrivals, lengths=_Listed(iter(pairs)), num_jobs=len(pairs))
    workload = Workload((stream,))
    step_costs = costs_for(costs, system.attention)
    return Simulation(system, workload, step_costs, latencies).run().figures()
