"""Jobs around the measured ones, whose steps say what a step costs on this machine now.

A machine drifts within minutes; before and after, what it does in between lies in between.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scheduler_svc.record_files import steps_path, steps_paths
from stepserve import AsyncClient
from stepserve_bench.workloads.burst import burst
from stepserve_bench.workloads.jobs import BenchJob
from stepserve_bench.workloads.outcome import Outcome


@dataclass(slots=True)
class Calibration:
    """The jobs of both sides; ``marks_s`` is when the ones before ended and the measured ones."""

    before: Sequence[BenchJob]
    after: Sequence[BenchJob]
    marks_s: list[float] = field(default_factory=list)

    async def around(
        self, client: AsyncClient, jobs: Sequence[BenchJob], num_gates: int
    ) -> list[Outcome]:
        """Run all of them, one burst after another; return what became of ``jobs``."""
        await burst(client, self.before, num_gates)
        self.marks_s.append(time.time())
        outcomes = await burst(client, jobs, num_gates)
        self.marks_s.append(time.time())
        await burst(client, self.after, num_gates)
        return outcomes

    def keep_records(self, records: Path, kept: Path) -> None:
        """Write the lines of a lane's records that are not of the measured jobs.

        Between two bursts nothing runs, so each part stands for itself.
        """
        start_s, end_s = self.marks_s
        kept.mkdir()
        for path in steps_paths(records):
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            times_s = [json.loads(line)["time_s"] for line in lines]
            pairs = list(zip(times_s, lines, strict=True))
            parts = {
                "before": [line for time_s, line in pairs if time_s < start_s],
                "after": [line for time_s, line in pairs if time_s >= end_s],
            }
            for name, part in parts.items():
                whole = "".join(part)
                steps_path(kept, f"{path.stem} {name}").write_text(whole, encoding="utf-8")
