"""``stepserve bench batching``: ways to form batches, side by side on the real service."""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from rich.console import Console

from stepserve import AsyncClient
from stepserve.protocol.errors import InvalidRequest, StepserveError
from stepserve_bench.batching.aims import aims
from stepserve_bench.batching.calibration import Calibration
from stepserve_bench.batching.methods import BASELINE, DEFAULT, Budgets, Method, parse_methods
from stepserve_bench.batching.prediction import Predictor, fitted_costs, known_costs
from stepserve_bench.batching.report import print_report
from stepserve_bench.demo.storyteller import MODEL_DIR
from stepserve_bench.extras import require
from stepserve_bench.measure.figures import ratios
from stepserve_bench.measure.service_run import Bed, ServiceRun
from stepserve_bench.measure.steps import mean_period_ms
from stepserve_bench.report.machine import machine
from stepserve_bench.report.output import write
from stepserve_bench.simulator.cost import Costs
from stepserve_bench.workloads.burst import burst
from stepserve_bench.workloads.jobs import BenchJob, random_jobs, static_bound
from stepserve_bench.workloads.lengths import ShareGPTLengths
from stepserve_bench.workloads.outcome import Outcome

# So many batches of other jobs are run before and after, for the costs of a step.
NUM_CALIBRATION_BATCHES = 3
# A rectangle's budget: each row decodes, and one is this much of a prompt further.
PADDED_CHUNK = 8
PICTURES = (".svg", ".png")


class BatchingBench(BaseSettings):
    """Measure static, continuous and selective batching, and split-fuse, one after another.

    Each is a setting of the same service: Redis, a scheduler and a worker are started for
    each, and get the same jobs, which all wait before the first may run. Lengths are
    ShareGPT's, times --scale; outputs are greedy and have exactly the length that is asked
    for. With --fit, other jobs run before and after, and what their steps cost goes to the
    simulator, whose figures are printed beside the measured ones.
    """

    model_config = SettingsConfigDict(
        env_prefix="STEPSERVE_BENCH_", env_ignore_empty=True, frozen=True
    )

    model: str = Field(str(MODEL_DIR), description="checkpoint directory; default: the demo model")
    systems: str = Field(DEFAULT, description="which to measure: BATCHING+ATTENTION[+split-fuse],…")
    num_jobs: int = Field(384, ge=1, description="jobs")
    scale: float = Field(0.5, gt=0, description="times ShareGPT's lengths (202 and 179 on average)")
    batch_size: int = Field(16, ge=1, description="rows of a batch at most")
    split_fuse_tokens: int = Field(128, ge=1, description="tokens in a step, with split-fuse")
    padded_tokens: int = Field(
        0, ge=0, description="the same for padded steps; 0: 8 more than rows"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="what all compute in"
    )
    num_threads: int = Field(1, ge=1, description="CPU threads of the worker")
    seed: int = Field(0, description="seed of lengths and tokens")
    fit: bool = Field(True, description="simulate too, with costs from other jobs' steps")
    costs: str = Field("", description="simulate with the costs in this file instead")
    picture: str = Field("", description="also draw the figures into this SVG or PNG file")
    out: str = Field("", description="also write the figures to this JSON file")

    def run(self) -> int:
        """Measure; the last line printed is a JSON object with the figures."""
        methods = parse_methods(self.systems)
        costs = self._prepare(methods)
        bed = Bed(self.model, self.batch_size, self.dtype, self.num_threads)
        jobs = self._jobs(bed, self.num_jobs, self.seed)
        runs: dict[str, ServiceRun] = {}
        with tempfile.TemporaryDirectory(prefix="stepserve-bench-") as scratch:
            for method in methods:
                Console(stderr=True).print(f"{method.name} …", highlight=False)
                runs[method.name] = self._measure(bed, method, jobs, Path(scratch))
                # Whatever the others come to, this much is known.
                write(self._result(jobs, runs, {}), self.out)
            records = {Path(scratch) / method.name: method for method in methods}
            predicted = self._predictions(bed, jobs, records, costs)
        result = self._result(jobs, runs, predicted)
        write(result, self.out)
        print_report(result)
        if self.picture:
            from stepserve_bench.batching.picture import draw

            draw(Path(self.picture), runs, self.batch_size)
        print(json.dumps(result))
        return 0

    def _prepare(self, methods: Sequence[Method]) -> Costs | None:
        """Find out what is missing before anything is measured; return the costs of --costs.

        Raises InvalidRequest, and StepserveError where a package is missing.
        """
        if self.picture:
            if Path(self.picture).suffix.lower() not in PICTURES:
                raise InvalidRequest("picture", f"{self.picture!r} ends in none of {PICTURES}")
            require("matplotlib", "--picture")
        if self._is_fitting:
            require("scipy", "--fit")
        if not self.costs:
            return None
        return known_costs(self.costs, methods)

    def _jobs(self, bed: Bed, num_jobs: int, seed: int) -> list[BenchJob]:
        lengths = ShareGPTLengths(bed.max_context, self.scale)
        return random_jobs(num_jobs, bed.vocab_size, lengths, random.Random(seed))

    def _flags(self, method: Method, jobs: Sequence[BenchJob]) -> dict[str, Any]:
        padded = self.padded_tokens or self.batch_size + PADDED_CHUNK
        whole = whole_prompts(jobs, self.batch_size)
        return method.flags(Budgets(whole, self.split_fuse_tokens, padded))

    def _measure(
        self, bed: Bed, method: Method, jobs: Sequence[BenchJob], scratch: Path
    ) -> ServiceRun:
        num_gates = 1 if method.batching == "static" else self.batch_size
        records = scratch / f"{method.name} all"
        num_others = NUM_CALIBRATION_BATCHES * self.batch_size if self._is_fitting else 0
        before, after = (self._jobs(bed, num_others, self.seed + i) for i in (1, 2))
        calibration = Calibration(before, after)

        async def load(client: AsyncClient) -> list[Outcome]:
            if self._is_fitting:
                return await calibration.around(client, jobs, num_gates)
            return await burst(client, jobs, num_gates)

        run = bed.measure(load, records, **self._flags(method, [*jobs, *before, *after]))
        if self._is_fitting:
            calibration.keep_records(records, scratch / method.name)
        return run

    @property
    def _is_fitting(self) -> bool:
        return self.fit and not self.costs

    def _predictions(
        self,
        bed: Bed,
        jobs: Sequence[BenchJob],
        records: Mapping[Path, Method],
        costs: Costs | None,
    ) -> dict[str, dict[str, float]]:
        """Return each method's figures as simulated; nothing where that is not asked for.

        Costs that are not given are fitted to the records. What fails here is told, and takes
        no measurement with it.
        """
        if not self.costs and not self.fit:
            return {}
        try:
            predictor = Predictor(bed, jobs, costs or fitted_costs(records))
            return {s.name: predictor.figures(s, self._flags(s, jobs)) for s in records.values()}
        except StepserveError as error:
            print(f"no predictions: {error}", file=sys.stderr)
            return {}

    def _result(
        self,
        jobs: Sequence[BenchJob],
        runs: Mapping[str, ServiceRun],
        predicted: Mapping[str, Mapping[str, float]],
    ) -> dict[str, Any]:
        figures = {
            name: run.figures(self.batch_size) | {"step_period_ms_mean": mean_period_ms(run.steps)}
            for name, run in runs.items()
        }
        speeds = {name: found["requests_per_s"] for name, found in predicted.items()}
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
            "predicted": {
                name: {"figures": found, "errors": _errors(found, figures[name])}
                for name, found in predicted.items()
            },
            "same_outputs": same_outputs(runs),
            "targets": aims(figures, bound, speeds),
            "machine": machine(),
        }


def _errors(predicted: Mapping[str, float], measured: Mapping[str, float]) -> dict[str, float]:
    return {name: value / measured[name] - 1.0 for name, value in predicted.items()}


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
