"""What the simulator says that each way to form batches does, beside what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepserve_bench.batching.methods import Method
from stepserve_bench.measure.service_run import BLOCK_SIZE, Bed
from stepserve_bench.simulator.cost import Costs, costs_for, read_costs
from stepserve_bench.simulator.predict import predict
from stepserve_bench.simulator.records import Recording
from stepserve_bench.simulator.system import System
from stepserve_bench.workloads.jobs import BenchJob

# A figure that is measured, and the simulator's that says what it should be. Costs are fitted
# to the time from one report to the next.
PREDICTED = {
    "requests_per_s": "requests_per_s",
    "latency_s_mean": "latency_s_mean",
    "step_period_ms_mean": "step_ms_mean",
}


@dataclass(frozen=True, slots=True)
class Predictor:
    """Simulates the jobs on the bed's machine, with what a step costs there."""

    bed: Bed
    jobs: Sequence[BenchJob]
    costs: Costs

    def figures(self, method: Method, flags: Mapping[str, Any]) -> dict[str, float]:
        """Return what is predicted of a run in which all jobs wait at the start."""
        found = predict(
            System(
                batching=method.batching,
                attention=method.attention,
                max_batch_size=self.bed.batch_size,
                max_step_tokens=flags["max_step_tokens"],
                num_blocks=self.bed.num_blocks,
                block_size=BLOCK_SIZE,
                max_context=self.bed.max_context,
            ),
            [(len(job.prompt_token_ids), job.max_tokens) for job in self.jobs],
            self.costs,
        )
        return {name: found[source] for name, source in PREDICTED.items()}


def known_costs(name: str, methods: Sequence[Method]) -> Costs:
    """Return the costs of a file or a preset, for all methods. Raises InvalidRequest."""
    costs = read_costs(name)
    for method in methods:
        costs_for(costs, method.attention)
    return costs


def fitted_costs(records: Mapping[Path, Method]) -> Costs:
    """Return the costs that these records of calibrations show. Raises InvalidRequest."""
    from stepserve_bench.simulator.fit import fit_recordings

    costs, _ = fit_recordings(
        Recording(directory, method.attention, method.batching)
        for directory, method in records.items()
    )
    return costs
