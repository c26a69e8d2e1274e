"""Driving a runner to the end of its jobs."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from stepserve.protocol.sampling import Sampling
from stepserve.protocol.step import StepCommand, StepReport
from tests.checkpoints import lone_greedy
from tests.worker_svc.lane import Lane
from worker_svc.core.residents import StepPlan
from worker_svc.runner import Runner
from worker_svc.step.pending import Pending

GREEDY = Sampling(max_tokens=12, temperature=0.0)
BLOCK_SIZE = 4


def prompt(length: int, seed: int = 0) -> list[int]:
    rng = random.Random(1000 * seed + length)
    return [rng.randrange(1, 257) for _ in range(length)]


def lane_for() -> Lane:
    return Lane(num_blocks=64, block_size=BLOCK_SIZE)


class Launches:
    """Executes commands, ``ahead`` of them launched before the one before them is absorbed."""

    def __init__(self, runner: Runner, ahead: int = 0) -> None:
        self._runner = runner
        self._ahead = ahead
        self._flying: deque[tuple[StepPlan, Pending]] = deque()

    def begin(self, command: StepCommand) -> list[StepReport]:
        """Launch; return the reports that come of it."""
        plan = self._runner.plan(command)
        self._flying.append((plan, self._runner.launch(plan)))
        return self.land(self._ahead)

    def land(self, num_flying: int = 0) -> list[StepReport]:
        """The reports of the oldest launched steps, until so many are left."""
        reports = []
        while len(self._flying) > num_flying:
            plan, pending = self._flying.popleft()
            reports.append(self._runner.absorb(plan, pending.wait()))
        return reports


def finish_all(runner: Runner, lane: Lane, depth: int = 1, chunk: int = 64, ahead: int = 0) -> None:
    """Decode and prefill everything that lives, ``depth`` commands ahead of the reports.

    ``ahead`` of those commands are launched before the one before them is absorbed.
    """
    launches = Launches(runner, ahead)
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
        if waiting and (len(waiting) + ahead >= depth or not rows):
            take_all(lane, launches.begin(waiting.popleft()))
        elif not rows:
            take_all(lane, launches.land())


def take_all(lane: Lane, reports: Sequence[StepReport]) -> None:
    for report in reports:
        lane.take(report)


def most_tokens(lane: Lane, sequence_id: int) -> int:
    admission = lane.jobs[sequence_id].admission
    return admission.num_prompt_tokens + admission.sampling.max_tokens


def all_is_free(runner: Runner, lane: Lane) -> None:
    assert runner.residents() == ()
    assert lane.pool.num_free == lane.pool.num_blocks


def keep_every_promise(runner: Runner, checkpoint: Path, seed: int, ahead: int = 0) -> None:
    """Admit, decode, split prompts and release at random, two steps ahead; check what comes of it.

    ``ahead`` more are launched before the one before them is absorbed.

    Every token is that of a lone run, whoever ended or left freed its blocks, and those alone.
    """
    rng = random.Random(seed)
    lane, waiting, released = lane_for(), deque[StepCommand](), set[int]()
    launches = Launches(runner, ahead)
    for _ in range(60):
        live = [i for i, j in lane.jobs.items() if j.finish is None and i not in released]
        leaving = [i for i in live if rng.random() < 0.03]
        if len(live) < 5 and len(lane.jobs) < 14:
            live.append(lane.admit(prompt(rng.randint(1, 14), len(lane.jobs)), GREEDY))
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
            take_all(lane, launches.begin(waiting.popleft()))
    while waiting:
        take_all(lane, launches.begin(waiting.popleft()))
    take_all(lane, launches.land())
    for sequence_id, job in lane.jobs.items():
        token_ids = job.admission.token_ids
        alone = lone_greedy(checkpoint, token_ids, 12, stop_token_ids=()).tokens
        assert job.tokens == alone[: len(job.tokens)]
        assert job.freed == (sequence_id in released or job.finish is not None)
    assert sum(job.finish is not None for job in lane.jobs.values()) >= 5
    held = sum(len(job.blocks) for job in lane.jobs.values())
    assert lane.pool.num_free == lane.pool.num_blocks - held
