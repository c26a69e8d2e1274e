"""``stepserve bench policies``: what each policy promises, measured on the real service."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from rich.console import Console

from stepserve.protocol.choices import Attention
from stepserve.protocol.errors import InvalidRequest
from stepserve_bench.demo.storyteller import MODEL_DIR
from stepserve_bench.measure.service_run import Bed
from stepserve_bench.policies import fairness, latency, overload, split_fuse, urgency
from stepserve_bench.policies.trial import Trial
from stepserve_bench.report.machine import machine
from stepserve_bench.report.output import finish
from stepserve_bench.report.targets import in_words

# What an experiment may aim at beside its ratio.
FURTHER = {
    "throughput": "throughput, split-fuse over whole",
    "not_ended": "jobs that did not end",
}
EXPERIMENTS = ("latency", "split-fuse", "priority", "fair", "overload")


class PolicyBench(BaseSettings):
    """Measure continuous batching, split-fuse, priority, fair and deadlines against their promises.

    `latency`: continuous beside static batches at 80 % of static's capacity. `split-fuse`: long
    prompts among decodes, whole and in chunks. `priority`: urgent jobs at twice the capacity,
    beside fcfs. `fair`: a tenant at ten times its share. `overload`: deadlines at three times the
    capacity, beside 0.9 times without. Jobs arrive whether or not the ones
    before have ended; progress is told on standard error.
    """

    model_config = SettingsConfigDict(
        env_prefix="STEPSERVE_BENCH_", env_ignore_empty=True, frozen=True
    )

    model: str = Field(str(MODEL_DIR), description="checkpoint directory; default: the demo model")
    only: str = Field(",".join(EXPERIMENTS), description="which to measure, with commas between")
    latency_s: float = Field(45.0, gt=0, description="how long jobs arrive, for latency")
    priority_s: float = Field(60.0, gt=0, description="how long jobs arrive, for priority")
    fair_s: float = Field(45.0, gt=0, description="how long jobs arrive, for fair")
    overload_s: float = Field(90.0, gt=0, description="how long jobs arrive, for overload")
    capacity_jobs: int = Field(160, ge=2, description="jobs that the capacity is measured with")
    scale: float = Field(0.5, gt=0, description="times ShareGPT's lengths (202 and 179 on average)")
    long_prompt: int = Field(1500, ge=1, description="tokens of a long prompt, for split-fuse")
    split_fuse_tokens: int = Field(224, ge=1, description="tokens in a step, with split-fuse")
    attention: Attention = Field("paged", description="how all attend")
    batch_size: int = Field(16, ge=1, description="rows of a batch at most")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="what all compute in"
    )
    num_threads: int = Field(1, ge=1, description="CPU threads of the worker")
    seed: int = Field(0, description="seed of lengths, tokens and arrivals")
    out: str = Field("", description="also write the figures to this JSON file")

    def run(self) -> int:
        """Measure; the last line printed is a JSON object with the figures."""
        bed = Bed(self.model, self.batch_size, self.dtype, self.num_threads)
        console = Console(stderr=True)
        trial = Trial(bed, self.attention, self.scale, self.seed, console)
        found: dict[str, Any] = {}
        for name, experiment in self._experiments(trial):
            console.print(f"[bold]{name}[/bold]")
            found[name] = experiment()
            console.print(line(name, found[name]), highlight=False, soft_wrap=True)
        result = {
            "workload": {**self.model_dump(exclude={"out"}), "model": os.path.relpath(self.model)},
            "experiments": found,
            "machine": machine(),
        }
        for name, figures in found.items():
            print(line(name, figures))
        finish(result, self.out)
        return 0

    def _experiments(self, trial: Trial) -> list[tuple[str, Callable[[], dict[str, Any]]]]:
        """Return those that are asked for. Raises InvalidRequest."""
        capacity = functools.cache(
            lambda: trial.capacity(self.capacity_jobs, batching="continuous")
        )
        known: dict[str, Callable[[], dict[str, Any]]] = {
            "latency": lambda: latency.run(trial, self.latency_s),
            "split-fuse": lambda: split_fuse.run(trial, self.long_prompt, self.split_fuse_tokens),
            "priority": lambda: urgency.run(trial, capacity(), self.priority_s),
            "overload": lambda: overload.run(
                trial,
                trial.capacity_of_equal(self.capacity_jobs, overload.OUTPUT_TOKENS),
                self.overload_s,
            ),
            "fair": lambda: fairness.run(trial, capacity(), self.fair_s),
        }
        names = [name.strip() for name in self.only.split(",")]
        if unknown := set(names) - known.keys():
            raise InvalidRequest("only", f"{', '.join(unknown)}: none of {', '.join(known)}")
        return [(name, known[name]) for name in names]


def line(name: str, figures: dict[str, Any]) -> str:
    """Return one experiment's ratio and targets in words, and why what was missed was missed."""
    parts = [
        (figures["what"], figures),
        *((words, figures[key]) for key, words in FURTHER.items() if key in figures),
    ]
    text = f"{name}: " + "; ".join(f"{words}: {in_words(found)}" for words, found in parts)
    if "also" in figures:
        text += f"; {figures['also']}"
    return "\n  ".join([text, *(found["limit"] for _, found in parts if "limit" in found)])
