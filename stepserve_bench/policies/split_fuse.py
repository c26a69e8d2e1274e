"""Long prompts among decodes, whole and in chunks: how long the decoding jobs stand still."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from stepserve import AsyncClient
from stepserve_bench.measure.figures import percentile
from stepserve_bench.measure.service_run import ServiceRun
from stepserve_bench.policies.trial import Trial
from stepserve_bench.report.targets import at_least
from stepserve_bench.workloads.jobs import BenchJob, random_jobs
from stepserve_bench.workloads.lengths import Bounds, FixedLengths, UniformLengths
from stepserve_bench.workloads.offer import run_job
from stepserve_bench.workloads.outcome import Arrival, Outcome

TARGET, TARGET_THROUGHPUT = 3.0, 0.95
# Three of four places decode; the others are for long prompts.
DECODING_SHARE = 0.75
# Outputs of different lengths: clients in step would send their long prompts all at once.
JOBS_PER_CLIENT, DECODING = 8, UniformLengths(Bounds(8, 24), Bounds(64, 192))
JOBS_PER_LONG_PROMPT, LONG_OUTPUT = 3, 4
LONG = "long"
STEPS = ("num_steps", "rows_per_step", "step_ms_mean", "step_ms_p50", "step_ms_p99")


@dataclass(slots=True)
class _Load:
    """Clients that send one decoding job after another; with every third that ends comes a
    long prompt. So both runs compute the same, and the long prompts come among decodes in both,
    often enough that one in fifty gaps or so is such a prompt's.
    """

    num_clients: int
    decoding: Iterator[BenchJob]
    long: Iterator[BenchJob]
    outcomes: list[Outcome] = field(default_factory=list)
    num_ended: int = 0

    async def __call__(self, client: AsyncClient) -> list[Outcome]:
        async with asyncio.TaskGroup() as group:
            for _ in range(self.num_clients):
                group.create_task(self._decode(client, group))
        return self.outcomes

    async def _decode(self, client: AsyncClient, group: asyncio.TaskGroup) -> None:
        for job in self.decoding:
            self.outcomes.append(await run_job(client, Arrival(0.0, job)))
            self.num_ended += 1
            if self.num_ended % JOBS_PER_LONG_PROMPT == 0 and (long := next(self.long, None)):
                group.create_task(self._prefill(client, long))

    async def _prefill(self, client: AsyncClient, job: BenchJob) -> None:
        self.outcomes.append(await run_job(client, Arrival(0.0, job, LONG)))


def run(trial: Trial, long_prompt: int, budget: int) -> dict[str, Any]:
    """Return the decoding jobs' times between tokens and the throughput, with and without."""
    bed = trial.bed
    runs: dict[str, dict[str, float]] = {}
    whole = bed.batch_size * (long_prompt + 1)
    for name, max_step_tokens in (("whole", whole), ("split_fuse", budget)):
        trial.console.print(f"{name}: {max_step_tokens} tokens a step …", highlight=False)
        load = _load(trial, long_prompt)
        measured = bed.measure(load, attention=trial.attention, max_step_tokens=max_step_tokens)
        runs[name] = _figures(measured, bed.batch_size)
    unsplit, split = runs["whole"], runs["split_fuse"]
    gap_ratio = unsplit["decoding_itl_ms_p99"] / split["decoding_itl_ms_p99"]
    speed_ratio = split["tokens_per_s"] / unsplit["tokens_per_s"]
    limits = _limits(unsplit, split, budget)
    return {
        "what": "p99 time between tokens of decoding jobs, whole prompts over split-fuse",
        **at_least(gap_ratio, TARGET, limits[0]),
        "throughput": at_least(speed_ratio, TARGET_THROUGHPUT, limits[1]),
        "long_prompt_tokens": long_prompt,
        "max_step_tokens": budget,
        **runs,
    }


def _limits(whole: dict[str, float], split: dict[str, float], budget: int) -> tuple[str, str]:
    """Return what limits the gaps, and what the throughput."""
    gaps = (
        f"in chunks a step takes {split['step_ms_p50']:.2f} ms (p50), one filled to {budget} "
        f"tokens {split['step_ms_p99']:.2f} ms (p99); a whole prompt makes it "
        f"{whole['step_ms_p99']:.2f} ms (p99)"
    )
    speeds = (
        f"the same tokens take {split['num_steps']:.0f} steps of {split['step_ms_mean']:.2f} ms "
        f"(mean) in chunks, {whole['num_steps']:.0f} of {whole['step_ms_mean']:.2f} ms whole"
    )
    return gaps, speeds


def _load(trial: Trial, long_prompt: int) -> _Load:
    num_clients = max(1, round(DECODING_SHARE * trial.bed.batch_size))
    num_jobs = num_clients * JOBS_PER_CLIENT
    vocab_size, chance = trial.bed.vocab_size, random.Random(f"{trial.seed} split-fuse")
    decoding = random_jobs(num_jobs, vocab_size, DECODING, chance)
    # None comes with the last ones, which would decode beside it alone.
    num_long = num_jobs // JOBS_PER_LONG_PROMPT - num_clients // JOBS_PER_LONG_PROMPT
    lengths = FixedLengths(long_prompt, LONG_OUTPUT)
    long = random_jobs(num_long, vocab_size, lengths, chance)
    return _Load(num_clients, iter(decoding), iter(long))


def _figures(run: ServiceRun, num_places: int) -> dict[str, float]:
    decoding = [o for o in run.ended if o.arrival.tenant != LONG]
    gaps_ms = [(b - a) * 1e3 for o in decoding for a, b in pairwise(o.times.token_times_s)]
    long_s = [o.ttft_s for o in run.ended if o.arrival.tenant == LONG]
    figures = run.figures(num_places)
    num_prompt_tokens = sum(len(o.arrival.job.prompt_token_ids) for o in run.ended)
    span_s = len(run.ended) / figures["requests_per_s"]
    return {
        "decoding_itl_ms_p50": percentile(gaps_ms, 0.5),
        "decoding_itl_ms_p99": percentile(gaps_ms, 0.99),
        "decoding_itl_ms_max": max(gaps_ms),
        "long_ttft_s_p50": percentile(long_s, 0.5),
        "tokens_per_s": figures["output_tokens_per_s"] + num_prompt_tokens / span_s,
        "num_long_prompts": len(long_s),
        **{name: figures[name] for name in STEPS},
    }
