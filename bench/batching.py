"""``stepserve bench batching``: ways to form batches, side by side on the real service."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from rich.console import Console

from bench.batching_report import print_report
from bench.batching_systems import BASELINE, DEFAULT, PADDED, PAGED, System, parse_systems
from bench.lengths import ShareGPTLengths
from bench.load import burst
from bench.measured import machine, ratios
from bench.service_run import Bed, ServiceRun
from bench.workload import BenchJob, random_jobs, static_bound

MODEL = Path(__file__).parent / "storyteller" / "model"
# What the batching of a system makes of the workload's bound is judged beside the static
# batches that attend alike.
TARGET_OVER_STATIC, TARGET_BOUND_SHARE, TARGET_PAGED = 2.3, 0.85, 1.25


class BatchingBench(BaseSettings):
    """Measure static, continuous and selective batching, and split-fuse, one after another.

    Each is a setting of the same service: Redis, a scheduler and a worker are started for
    each, and get the same jobs, which all wait before the first may run. Lengths are
    ShareGPT's, times --scale; outputs are greedy and have exactly the length that is asked for.
    """

    model_config = SettingsConfigDict(env_prefix="STEPSERVE_BENCH_", frozen=True)

    model: str = Field(str(MODEL), description="checkpoint directory; default: the demo model")
    systems: str = Field(DEFAULT, description="which: BATCHING+ATTENTION[+split-fuse],…")
    num_jobs: int = Field(384, ge=1, description="jobs")
    scale: float = Field(0.5, gt=0, description="times ShareGPT's lengths (202 and 179 on average)")
    batch_size: int = Field(16, ge=1, description="rows at most")
    split_fuse_tokens: int = Field(128, ge=1, description="tokens in a step, with split-fuse")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="for all")
    num_threads: int = Field(1, ge=1, description="CPU threads of the worker")
    seed: int = Field(0, description="of lengths and tokens")
    picture: str = Field("", description="also draw the figures into this SVG or PNG file")
    out: str = Field("", description="also write the figures to this JSON file")

    def run(self) -> int:
        """Measure; the last line printed is a JSON object with the figures."""
        console = Console(stderr=True)
        systems = parse_systems(self.systems)
        bed = Bed(self.model, self.batch_size, self.dtype, self.num_threads)
        jobs = self._jobs(bed)
        runs: dict[str, ServiceRun] = {}
        for system in systems:
            console.print(f"{system.name} …", highlight=False)
            runs[system.name] = self._measure(bed, system, jobs)
        result = self._result(jobs, runs)
        print_report(result)
        if self.picture:
            from bench.figure_batching import draw

            draw(Path(self.picture), runs, self.batch_size)
        if self.out:
            Path(self.out).parent.mkdir(parents=True, exist_ok=True)
            Path(self.out).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        print(json.dumps(result))
        return 0

    def _jobs(self, bed: Bed) -> list[BenchJob]:
        lengths = ShareGPTLengths(bed.max_context, self.scale)
        return random_jobs(self.num_jobs, bed.vocab_size, lengths, random.Random(self.seed))

    def _measure(self, bed: Bed, system: System, jobs: Sequence[BenchJob]) -> ServiceRun:
        num_gates = 1 if system.batching == "static" else self.batch_size
        flags = system.flags(whole_prompts(jobs, self.batch_size), self.split_fuse_tokens)
        return bed.measure(lambda client: burst(client, jobs, num_gates), **flags)

    def _result(self, jobs: Sequence[BenchJob], runs: Mapping[str, ServiceRun]) -> dict[str, Any]:
        figures = {name: run.figures(self.batch_size) for name, run in runs.items()}
        bound = static_bound([job.max_tokens for job in jobs], self.batch_size)
        settings = self.model_dump(exclude={"out", "picture", "systems"})
        return {
            "workload": {
                **settings,
                "model": os.path.relpath(self.model),
                "mean_prompt_tokens": sum(len(job.prompt_token_ids) for job in jobs) / len(jobs),
                "mean_output_tokens": sum(job.max_tokens for job in jobs) / len(jobs),
            },
            "static_bound": bound,
            "systems": figures,
            "ratios_to_static": {
                name: ratios(figures[name], figures[BASELINE])
                for name in figures
                if BASELINE in figures and name != BASELINE
            },
            "same_outputs": same_outputs(runs),
            "targets": targets(figures, bound),
            "machine": machine(),
        }


def whole_prompts(jobs: Sequence[BenchJob], batch_size: int) -> int:
    """Return a step's token budget that never splits a prompt of these jobs."""
    prompts = sorted((len(job.prompt_token_ids) for job in jobs), reverse=True)
    return sum(prompts[:batch_size]) + batch_size


def same_outputs(runs: Mapping[str, ServiceRun]) -> dict[str, str]:
    """Return for each run how many of its outputs are those of the first run."""
    first = next(iter(runs.values())).outcomes
    return {
        name: f"{sum(a.token_ids == b.token_ids for a, b in zip(first, run.outcomes, strict=True))}"
        f" of {len(first)}"
        for name, run in runs.items()
    }


def targets(
    figures: Mapping[str, Mapping[str, float]], bound: float
) -> dict[str, dict[str, float | bool]]:
    """Return what is aimed at, as far as the systems that were measured tell."""
    found: dict[str, dict[str, float | bool]] = {}

    def compare(name: str, ours: str, theirs: str, divisor: float, target: float) -> None:
        if ours in figures and theirs in figures:
            speeds = [figures[system]["requests_per_s"] for system in (ours, theirs)]
            value = speeds[0] / speeds[1] / divisor
            found[name] = {"value": value, "target": target, "is_reached": value >= target}

    compare(f"{PAGED} over {BASELINE}", PAGED, BASELINE, 1.0, TARGET_OVER_STATIC)
    compare(f"{PADDED} over {BASELINE}", PADDED, BASELINE, 1.0, TARGET_OVER_STATIC)
    compare(
        f"{PADDED} over {BASELINE}, as a share of the bound",
        *(PADDED, BASELINE, bound, TARGET_BOUND_SHARE),
    )
    compare(
        f"{PAGED} over static+paged, as a share of the bound",
        *(PAGED, "static+paged", bound, TARGET_BOUND_SHARE),
    )
    compare(f"{PAGED} over {PADDED}", PAGED, PADDED, 1.0, TARGET_PAGED)
    return found
