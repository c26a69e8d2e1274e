"""Driving a runner to the end of its jobs."""

from __future__ import annotations

import random
from collections import deque

from protos.step import Sampling, StepCommand
from tests.worker.lane import Lane
from worker_svc.runner import Runner

GREEDY = Sampling(max_tokens=12, temperature=0.0)
BLOCK_SIZE = 4


def prompt(length: int, seed: int = 0) -> list[int]:
    rng = random.Random(1000 * seed + length)
    return [rng.randrange(1, 257) for _ in range(length)]


def lane_for() -> Lane:
    return Lane(num_blocks=64, block_size=BLOCK_SIZE)


def finish_all(runner: Runner, lane: Lane, depth: int = 1, chunk: int = 64) -> None:
    """Decode and prefill everything that lives, ``depth`` commands ahead of the reports."""
    waiting: deque[StepCommand] = deque()
    while True:
        live = [i for i, job in lane.jobs.items() if job.finish is None and not job.freed]
        if not live and not waiting:
            return
        # A lane never plans past max_tokens: those rows only wait for their reports.
        rows = {
            i: min(lane.pending(i), chunk)
            for i in live
            if lane.jobs[i].num_tokens < most_tokens(lane, i) or lane.pending(i) > 1
        }
        if rows:
            waiting.append(lane.command(rows))
        if len(waiting) == depth or not rows:
            lane.take(runner.execute(waiting.popleft()))


def most_tokens(lane: Lane, sequence_id: int) -> int:
    admission = lane.jobs[sequence_id].admission
    return admission.num_prompt_tokens + admission.sampling.max_tokens


def all_is_free(runner: Runner, lane: Lane) -> None:
    assert runner.residents() == ()
    assert lane.pool.num_free == lane.pool.num_blocks
