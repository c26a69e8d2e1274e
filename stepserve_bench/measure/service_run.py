"""One measurement: a service started with these flags, loaded, and what it recorded."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from stepserve import AsyncClient
from stepserve.local.serving import Served, serve
from stepserve_bench.measure.figures import figures
from stepserve_bench.measure.memory import service_peak_bytes
from stepserve_bench.measure.recorded import RecordedStep, read_steps
from stepserve_bench.measure.steps import step_figures
from stepserve_bench.workloads.offer import warm_up
from stepserve_bench.workloads.outcome import Outcome

BLOCK_SIZE = 16

Load = Callable[[AsyncClient], Awaitable[list[Outcome]]]


@dataclass(frozen=True)
class Bed:
    """What is the same for all measurements of a run: checkpoint, places, what computes."""

    model: str
    batch_size: int
    dtype: str
    num_threads: int

    @cached_property
    def config(self) -> dict[str, Any]:
        """The checkpoint's own configuration."""
        found: dict[str, Any] = json.loads((Path(self.model) / "config.json").read_text())
        return found

    @property
    def vocab_size(self) -> int:
        return int(self.config["vocab_size"])

    @property
    def max_context(self) -> int:
        return int(self.config["max_position_embeddings"])

    @property
    def num_blocks(self) -> int:
        """Enough for every place at the longest context: nothing is preempted."""
        return self.batch_size * math.ceil(self.max_context / BLOCK_SIZE)

    def measure(self, load: Load, record_dir: Path | None = None, **flags: Any) -> ServiceRun:
        """Start a service, warm it up, load it, and stop it. Raises ServeFailed.

        ``record_dir`` is where its steps are recorded, if anybody else wants them.
        """
        own: dict[str, Any] = {
            "max_batch_size": self.batch_size,
            "dtype": self.dtype,
            "num_threads": self.num_threads,
            "block_size": BLOCK_SIZE,
            "num_blocks": self.num_blocks,
        }
        with tempfile.TemporaryDirectory(prefix="stepserve-bench-") as scratch:
            directory = record_dir or Path(scratch)
            with serve(self.model, record_dir=directory, **{**own, **flags}) as served:
                outcomes = asyncio.run(_loaded(served, load))
                memory = service_peak_bytes(served.process.pid)
            steps = read_steps(directory)
        start_s = min(outcome.times.submitted_s for outcome in outcomes)
        ends_s = [outcome.times.token_times_s[-1:] for outcome in outcomes]
        end_s = max(itertools.chain(*ends_s), default=start_s)
        return ServiceRun(outcomes, [s for s in steps if start_s <= s.sent_s <= end_s], memory)


@dataclass(frozen=True, slots=True)
class ServiceRun:
    """What became of the jobs, the steps from when the first was due to the last token, memory."""

    outcomes: list[Outcome]
    steps: list[RecordedStep]
    peak_memory_bytes: int

    @property
    def ended(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.has_ended]

    def figures(self, num_places: int) -> dict[str, float]:
        """Return the figures of the jobs that ended, and of the steps."""
        times = [outcome.times for outcome in self.ended]
        return figures(times, self.peak_memory_bytes) | step_figures(self.steps, num_places)


async def _loaded(served: Served, load: Load) -> list[Outcome]:
    async with AsyncClient(served.target) as client:
        await warm_up(client)
        return await load(client)
