"""``stepserve bench pipeline``: stages of one thread each, and how long they wait."""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from stepserve import AsyncClient
from stepserve.protocol.errors import InvalidRequest
from stepserve_bench.extras import require
from stepserve_bench.gpu.checkpoint import write_checkpoint
from stepserve_bench.gpu.geometry import SMOLLM2_135M
from stepserve_bench.measure.service_run import Bed
from stepserve_bench.pipeline.report import print_report, same_outputs, targets
from stepserve_bench.pipeline.spans import read_stages
from stepserve_bench.pipeline.ways import FILLED, WAYS, Measured, Way, compared, lone_stage
from stepserve_bench.report.machine import machine
from stepserve_bench.report.output import finish
from stepserve_bench.workloads.burst import burst
from stepserve_bench.workloads.jobs import BenchJob, random_jobs
from stepserve_bench.workloads.lengths import ShareGPTLengths
from stepserve_bench.workloads.outcome import Outcome

PICTURES = (".svg", ".png")
# Blocks for each place: a few times what its jobs have on average, so that nothing is preempted.
BLOCKS_A_PLACE = 32


class PipelineBench(BaseSettings):
    """Measure a pipeline of processes with one thread each, beside one process with one thread.

    Redis, a scheduler and the worker's processes are started for each way to form batches: none
    (one stage), static batches, one dynamic batch in flight, and one for each stage; a batch in
    flight has the same places in all of them. All get the same jobs, which all wait before the
    first may run; lengths are ShareGPT's, times --scale, outputs exactly as long as is asked for.
    What each stage waits is measured between the ends of a tenth and of nine tenths of the jobs.
    There should be a core for each stage and some to spare for the scheduler: on as few as stages,
    it takes its time from them.
    """

    model_config = SettingsConfigDict(
        env_prefix="STEPSERVE_BENCH_", env_ignore_empty=True, frozen=True
    )

    model: str = Field(
        "", description="checkpoint directory; default: random weights of SmolLM2-135M's shape"
    )
    stages: int = Field(2, ge=2, le=16, description="stages of the pipeline")
    num_jobs: int = Field(192, ge=1, description="jobs")
    scale: float = Field(
        0.25, gt=0, description="times ShareGPT's lengths (202 and 179 on average)"
    )
    batch_size: int = Field(32, ge=1, description="sequences at most in each batch in flight")
    num_threads: int = Field(1, ge=1, description="CPU threads of each process")
    seed: int = Field(0, description="seed of lengths and tokens")
    ways: str = Field(
        ",".join(way.name for way in WAYS), description="which ways to measure, in which order"
    )
    picture: str = Field("", description="also draw what the stages did into this SVG or PNG file")
    out: str = Field("", description="also write the figures to this JSON file")

    def run(self) -> int:
        """Measure; the last line printed is a JSON object with the figures."""
        ways = self._ways()
        with self._model() as model:
            num_places = self.batch_size * self.stages
            bed = Bed(model, num_places, "float32", self.num_threads)
            jobs = self._jobs(bed)
            found = []
            for way in ways:
                print(f"{way.name} …", file=sys.stderr, flush=True)
                found.append(self._measure(bed, way, jobs))
        if self.picture:
            from stepserve_bench.pipeline.picture import draw

            draw(Path(self.picture), found)
        result = self._result(jobs, found)
        print_report(result)
        finish(result, self.out)
        return 0

    def _ways(self) -> list[Way]:
        """Raises InvalidRequest, and StepserveError where a package is missing."""
        if self.picture:
            if Path(self.picture).suffix.lower() not in PICTURES:
                raise InvalidRequest("picture", f"{self.picture!r} ends in none of {PICTURES}")
            require("matplotlib", "--picture")
        known = {way.name: way for way in WAYS}
        names = [name.strip() for name in self.ways.split(",")]
        if unknown := [name for name in names if name not in known]:
            raise InvalidRequest("ways", f"{unknown[0]!r} is none of {', '.join(known)}")
        return [known[name] for name in names]

    @contextmanager
    def _model(self) -> Iterator[str]:
        with tempfile.TemporaryDirectory(prefix="stepserve-bench-") as scratch:
            yield self.model or str(write_checkpoint(SMOLLM2_135M, Path(scratch)))

    def _jobs(self, bed: Bed) -> list[BenchJob]:
        lengths = ShareGPTLengths(bed.max_context, self.scale)
        return random_jobs(self.num_jobs, bed.vocab_size, lengths, random.Random(self.seed))

    def _measure(self, bed: Bed, way: Way, jobs: Sequence[BenchJob]) -> Measured:
        num_places = way.num_places(self.stages, self.batch_size)
        num_gates = 1 if way.batching == "static" else num_places

        async def load(client: AsyncClient) -> list[Outcome]:
            return await burst(client, jobs, num_gates)

        flags = way.flags(self.stages, self.batch_size)
        num_blocks = min(bed.num_blocks, num_places * BLOCKS_A_PLACE)
        zero_s = time.time() - time.monotonic()
        with tempfile.TemporaryDirectory(prefix="stepserve-stages-") as directory:
            if way.is_pipeline:
                flags["record_stages_dir"] = directory
            run = bed.measure(load, num_blocks=num_blocks, device="cpu", **flags)
            stages = read_stages(Path(directory), zero_s)
        return Measured(way, run, stages or lone_stage(run))

    def _result(self, jobs: Sequence[BenchJob], found: Sequence[Measured]) -> dict[str, Any]:
        figures = {
            measured.way.name: measured.figures(
                measured.way.num_places(self.stages, self.batch_size)
            )
            for measured in found
        }
        times = compared(figures) if FILLED.name in figures else {}
        settings = self.model_dump(exclude={"out", "picture", "ways"})
        return {
            "workload": {
                **settings,
                "model": self.model or SMOLLM2_135M.name,
                "mean_prompt_tokens": sum(len(job.prompt_token_ids) for job in jobs) / len(jobs),
                "mean_output_tokens": sum(job.max_tokens for job in jobs) / len(jobs),
            },
            "ways": figures,
            "times_as_fast_as": times,
            "same_outputs": same_outputs(found),
            "targets": targets(figures, times),
            "machine": machine(),
        }
