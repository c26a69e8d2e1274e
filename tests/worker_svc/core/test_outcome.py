"""A step's report does not depend on how many steps were planned before it was settled."""

from __future__ import annotations

import random
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepserve.protocol.errors import StepRefused
from stepserve.protocol.sampling import Sampling
from stepserve.protocol.step import StepCommand, StepReport
from tests.worker_svc.lane import Lane
from worker_svc.core.limits import Limits
from worker_svc.core.outcome import Chosen, absorb
from worker_svc.core.residents import Residents, StepPlan

BLOCK_SIZE = 4
LIMITS = Limits(50, 24, BLOCK_SIZE, 64, 6, 64)
STOP = 7
DEPTH = 4


class Device:
    """Chooses by sequence and position alone: the same whatever was planned ahead."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def compute(self, plan: StepPlan) -> Chosen:
        drawn = [
            random.Random(f"{self._seed} {row.resident.sequence_id} {row.position}")
            for row in plan.sampled
        ]
        return Chosen(
            token_ids=[rng.choice((STOP, 1, 2, 3, 4)) for rng in drawn],
            is_finite=[rng.random() > 0.04 for rng in drawn],
        )


class Worker:
    """Residents of which up to ``ahead`` steps are planned before the oldest is settled."""

    def __init__(self, device: Device, ahead: int) -> None:
        self.residents = Residents(LIMITS)
        self._device, self._ahead = device, ahead
        self._planned: deque[StepPlan] = deque()
        self.reports: list[StepReport] = []

    def take(self, command: StepCommand) -> None:
        self._planned.append(self.residents.plan(command))
        self.settle(self._ahead)

    def settle(self, num_planned: int = 0) -> None:
        while len(self._planned) > num_planned:
            plan = self._planned.popleft()
            self.reports.append(absorb(self.residents, plan, self._device.compute(plan)))


def ordered(report: StepReport) -> tuple[object, ...]:
    tokens = zip(report.token_sequence_ids, report.token_offsets, report.token_ids, strict=True)
    freed = sorted((i, tuple(blocks)) for i, blocks in report.freed)
    return (report.step, list(tokens), sorted(report.finished), freed)


def next_command(lane: Lane, released: set[int], rng: random.Random) -> StepCommand:
    live = [i for i, j in lane.jobs.items() if j.finish is None and i not in released]
    leaving = [i for i in live if rng.random() < 0.05]
    released.update(leaving)
    if len(live) < LIMITS.max_batch_size and rng.random() < 0.5:
        sampling = Sampling(max_tokens=rng.randint(1, 9), stop_token_ids=(STOP,))
        live.append(lane.admit([1] * rng.randint(1, 14), sampling))

    def may_go_on(i: int) -> bool:
        job = lane.jobs[i]
        most = min(job.admission.num_prompt_tokens + job.admission.sampling.max_tokens, 24)
        return lane.pending(i) > 1 or job.num_tokens < most

    rows = {
        i: rng.randint(1, min(lane.pending(i), 6))
        for i in live
        if i not in leaving and rng.random() < 0.8 and may_go_on(i)
    }
    return lane.command(rows, leaving)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_reports_are_the_same_however_far_ahead_steps_are_planned(seed: int) -> None:
    rng, device, released = random.Random(seed), Device(seed), set[int]()
    lane, workers = Lane(64, BLOCK_SIZE), [Worker(device, ahead) for ahead in range(DEPTH)]
    for _ in range(30):
        command = next_command(lane, released, rng)
        for worker in workers:
            worker.take(command)
        if (seen := command.step - DEPTH) >= 0:
            lane.take(workers[0].reports[seen])
    for worker in workers:
        worker.settle()
    expected = [ordered(report) for report in workers[0].reports]
    for worker in workers[1:]:
        assert [ordered(report) for report in worker.reports] == expected
        assert worker.residents.describe() == workers[0].residents.describe()


def test_a_command_that_is_refused_while_steps_are_planned_changes_nothing() -> None:
    lane, worker = Lane(64, BLOCK_SIZE), Worker(Device(1), ahead=2)
    job = lane.admit([1] * 5, Sampling(max_tokens=9))
    worker.take(lane.command({job: 5}))
    before = worker.residents.describe()
    too_many = lane.command({job: 1})
    bad = StepCommand(
        epoch=1,
        incarnation="me",
        step=2,
        row_sequence_ids=(job,),
        row_num_tokens=(2,),
        row_num_new_blocks=(0,),
    )
    with pytest.raises(StepRefused, match="1 are pending"):
        worker.take(bad)
    assert worker.residents.describe() == before
    worker.take(too_many)
