"""What the simulator says that each way to form batches does, beside what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.batching_systems import System
from bench.service_run import BLOCK_SIZE, Bed
from bench.simulator import system as simulated
from bench.simulator.cost import Costs, read_costs
from bench.simulator.fit import fit_recordings
from bench.simulator.predict import predict
from bench.simulator.records import Recording
from bench.workload import BenchJob


@dataclass(frozen=True, slots=True)
class Predictor:
    """Simulates the jobs on the bed's machine, with what a step costs there."""

    bed: Bed
    jobs: Sequence[BenchJob]
    costs: Costs

    def requests_per_s(self, system: System, flags: Mapping[str, Any]) -> float:
        """Return the throughput of a run in which all jobs wait at the start."""
        found = predict(
            simulated.System(
                batching=system.batching,
                attention=system.attention,
                max_batch_size=self.bed.batch_size,
                max_step_tokens=flags["max_step_tokens"],
                num_blocks=self.bed.num_blocks,
                block_size=BLOCK_SIZE,
                max_context=self.bed.max_context,
            ),
            [(len(job.prompt_token_ids), job.max_tokens) for job in self.jobs],
            self.costs,
        )
        return found["requests_per_s"]


def known_costs(name: str) -> Costs:
    """Return the costs of a file or a preset. Raises InvalidRequest."""
    return read_costs(name)


def fitted_costs(records: Mapping[Path, System]) -> Costs:
    """Return the costs that these records of calibrations show. Raises InvalidRequest."""
    costs, _ = fit_recordings(
        Recording(directory, system.attention, system.batching)
        for directory, system in records.items()
    )
    return costs
