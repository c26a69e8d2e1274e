"""Driving a runner to the end of its jobs."""

from __future__ import annotations

import random
from collections import deque
from pathlib import Path

from protos.step import Sampling, StepCommand
from tests.checkpoints import lone_greedy
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


def keep_every_promise(runner: Runner, checkpoint: Path, seed: int) -> None:
    """Admit, decode, split prompts and release at random, two steps ahead; check what comes of it.

    Every token is that of a lone run, whoever ended or left freed its blocks, and those alone.
    """
    rng = random.Random(seed)
    lane, waiting, released = lane_for(), deque[StepCommand](), set[int]()
    for _ in range(60):
        live = [i for i, j in lane.jobs.items() if j.finish is None and i not in released]
        if len(live) < 5 and len(lane.jobs) < 14:
            lane.admit(prompt(rng.randint(1, 14), len(lane.jobs)), GREEDY)
            live.append(len(lane.jobs))
        leaving = [i for i in live if rng.random() < 0.03]
        released.update(leaving)
        rows = {
            i: rng.randint(1, min(lane.pending(i), 8))
            for i in live
            if i not in leaving
            and rng.random() < 0.8
            and (lane.jobs[i].num_tokens < most_tokens(lane, i) or lane.pending(i) > 1)
        }
        waiting.append(lane.command(rows, leaving))
        if len(waiting) == 2:
            lane.take(runner.execute(waiting.popleft()))
    while waiting:
        lane.take(runner.execute(waiting.popleft()))
    for sequence_id, job in lane.jobs.items():
        token_ids = job.admission.token_ids
        alone = lone_greedy(checkpoint, token_ids, 12, stop_token_ids=()).tokens
        assert job.tokens == alone[: len(job.tokens)]
        assert job.freed == (sequence_id in released or job.finish is not None)
    assert sum(job.finish is not None for job in lane.jobs.values()) >= 5
    held = sum(len(job.blocks) for job in lane.jobs.values())
    assert lane.pool.num_free == lane.pool.num_blocks - held
