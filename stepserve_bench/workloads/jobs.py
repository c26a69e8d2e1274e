"""Jobs for the benchmarks: seeded, as values, the same for every system in a run."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from stepserve_bench.workloads.lengths import Bounds, JobLengths


@dataclass(frozen=True, slots=True)
class BenchJob:
    """A prompt of token ids and exactly how many tokens to generate (end tokens are ignored)."""

    prompt_token_ids: list[int]
    max_tokens: int


def uniform_jobs(
    num_jobs: int, vocab_size: int, prompts: Bounds, outputs: Bounds, seed: int
) -> list[BenchJob]:
    """Return jobs with random token ids (the first ten ids, often special ones, left out)."""
    chance = random.Random(seed)
    return [
        BenchJob(
            [chance.randrange(10, vocab_size) for _ in range(prompts.draw(chance))],
            outputs.draw(chance),
        )
        for _ in range(num_jobs)
    ]


def random_jobs(
    num_jobs: int, vocab_size: int, lengths: JobLengths, chance: random.Random
) -> list[BenchJob]:
    """Return jobs of these lengths, of token ids as ``uniform_jobs`` draws them."""
    drawn = [lengths.draw(chance) for _ in range(num_jobs)]
    return [
        BenchJob(chance.choices(range(10, vocab_size), k=prompt), output)
        for prompt, output in drawn
    ]


def static_bound(outputs: Sequence[int], batch_size: int) -> float:
    """Return what static batches lose at most: their longest output over the mean output.

    Jobs enter in order, ``batch_size`` at a time. A static batch runs as many steps as its
    longest output has tokens; were every place always filled, that many steps would do
    ``longest / mean`` times the work.
    """
    longest = [
        max(outputs[first : first + batch_size]) for first in range(0, len(outputs), batch_size)
    ]
    return sum(longest) / len(longest) / (sum(outputs) / len(outputs))


def write_jobs(path: Path, jobs: Sequence[BenchJob]) -> None:
    """Write the jobs as JSON, for a process of its own to read."""
    path.write_text(json.dumps([asdict(job) for job in jobs]), encoding="utf-8")


def read_jobs(path: Path) -> list[BenchJob]:
    """Read what ``write_jobs`` wrote."""
    return [BenchJob(**job) for job in json.loads(path.read_text(encoding="utf-8"))]
