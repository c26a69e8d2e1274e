"""``stepserve bench``: stepserve beside transformers' ``generate`` in static batches."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from rich.console import Console
from rich.table import Table

from stepserve import AsyncClient
from stepserve.local.serving import serve
from stepserve.process.extras import require
from stepserve.process.tether import tethered
from stepserve.protocol.errors import StepserveError
from stepserve_bench.demo.storyteller import MODEL_DIR
from stepserve_bench.measure.figures import figures, ratios
from stepserve_bench.measure.memory import service_peak_bytes
from stepserve_bench.report.machine import machine
from stepserve_bench.report.output import finish
from stepserve_bench.report.tables import table_console
from stepserve_bench.workloads.jobs import BenchJob, read_jobs, uniform_jobs, write_jobs
from stepserve_bench.workloads.lengths import Bounds
from stepserve_bench.workloads.offer import run_job, warm_up
from stepserve_bench.workloads.outcome import Arrival, JobTimes


class Bench(BaseSettings):
    """Measure stepserve against transformers' static batches: same checkpoint, same jobs.

    Both run one after the other on this machine, all jobs submitted at once. Jobs are
    random token ids, and every output has exactly the length that its job asks for.

    Other benchmarks: `stepserve bench batching`, `policies`, `core` and `example`.
    """

    model_config = SettingsConfigDict(
        env_prefix="STEPSERVE_BENCH_", env_ignore_empty=True, frozen=True
    )

    model: str = Field(str(MODEL_DIR), description="checkpoint directory; default: the demo model")
    num_jobs: int = Field(96, ge=1, description="jobs")
    prompt_tokens: tuple[int, int] = Field((16, 128), description="prompt lengths, LOW,HIGH")
    output_tokens: tuple[int, int] = Field((8, 160), description="output lengths, LOW,HIGH")
    batch_size: int = Field(16, ge=1, description="rows of a batch at most, for both")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="what both compute in"
    )
    num_threads: int = Field(2, ge=1, description="CPU threads for both")
    seed: int = Field(0, description="seed of lengths and tokens")
    out: str = Field("", description="also write the figures to this JSON file")

    def run(self) -> int:
        """Measure; the last line printed is a JSON object with the figures."""
        require("bench", "bench", "torch", "transformers")
        console = Console(stderr=True)
        vocab_size = json.loads((Path(self.model) / "config.json").read_text())["vocab_size"]
        jobs = uniform_jobs(
            self.num_jobs,
            vocab_size,
            Bounds(*self.prompt_tokens),
            Bounds(*self.output_tokens),
            self.seed,
        )
        with tempfile.TemporaryDirectory(prefix="stepserve-bench-") as scratch:
            path = Path(scratch) / "jobs.json"
            write_jobs(path, jobs)
            console.print("transformers generate, static batches …")
            static, expected = self._static(path)
            console.print("stepserve …")
            ours, outputs = self._stepserve(path)
        same = sum(a == b for a, b in zip(outputs, expected, strict=True))
        result: dict[str, Any] = {
            "workload": {**self.model_dump(exclude={"out"}), "model": os.path.relpath(self.model)},
            "transformers_static": static,
            "stepserve": ours,
            "ratios": ratios(ours, static),
            "same_outputs": f"{same} of {len(jobs)}",
            "machine": machine(),
        }
        table_console().print(table(result))
        finish(result, self.out)
        return 0

    def _static(self, jobs: Path) -> tuple[dict[str, float], list[list[int]]]:
        command = tethered(
            "stepserve_bench.compare.static_generate",
            f"--model={self.model}",
            f"--jobs={jobs}",
            f"--batch-size={self.batch_size}",
            f"--dtype={self.dtype}",
            f"--threads={self.num_threads}",
        )
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise StepserveError(f"the baseline ended with status {done.returncode}")
        result = json.loads(done.stdout.splitlines()[-1])
        return result["figures"], result["outputs"]

    def _stepserve(self, path: Path) -> tuple[dict[str, float], list[list[int]]]:
        flags: dict[str, Any] = {
            "dtype": self.dtype,
            "max_batch_size": self.batch_size,
            "num_threads": self.num_threads,
        }
        with serve(self.model, **flags) as served:
            times, outputs = asyncio.run(run_jobs(served.target, read_jobs(path)))
            memory = service_peak_bytes(served.process.pid)
        return figures(times, memory), outputs


async def run_jobs(target: str, jobs: Sequence[BenchJob]) -> tuple[list[JobTimes], list[list[int]]]:
    """Submit all jobs at once, greedily; return each one's times and tokens."""
    async with AsyncClient(target) as client:
        await warm_up(client)
        outcomes = await asyncio.gather(*(run_job(client, Arrival(0.0, job)) for job in jobs))
    return [o.times for o in outcomes], [o.token_ids for o in outcomes]


def table(result: Mapping[str, Any]) -> Table:
    """Return the two systems side by side."""
    view = Table(title="all jobs at once, same checkpoint, same jobs, one run")
    for name in ("", "transformers static", "stepserve", "ratio"):
        view.add_column(name, justify="left" if not name else "right")
    for name, ours in result["stepserve"].items():
        theirs, ratio = result["transformers_static"][name], result["ratios"].get(name)
        view.add_row(name, f"{theirs:.2f}", f"{ours:.2f}", f"{ratio:.2f}" if ratio else "")
    return view
