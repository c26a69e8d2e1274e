"""Steps in a pipeline: whose turn it is, and that no stage runs dry for want of a micro-batch."""

from __future__ import annotations

from collections import deque
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.pool import BlockPool
from scheduler_svc.core.events import Claimed, Committed, Reported
from scheduler_svc.core.growth import Growth
from scheduler_svc.core.intake import sequences_of
from scheduler_svc.core.lengths import OutputLengths
from scheduler_svc.core.micro_batches import MicroBatches, even_share
from scheduler_svc.core.planner import Planner
from scheduler_svc.core.roster import Roster
from stepserve.protocol.job import ClaimedJob
from stepserve.protocol.step import FinishReason, StepCommand
from tests.scheduler_svc.core.build import Lane, core_config, job, report
from tests.scheduler_svc.core.model_worker import ModelWorker

NO_ROWS: list[tuple[int, int]] = []


@given(st.integers(0, 40), st.lists(st.integers(0, 12), max_size=5))
def test_an_even_share_is_the_lowest_level_that_leaves_nothing_over(
    count: int, others: list[int]
) -> None:
    level = 0
    while level + sum(max(0, level - size) for size in others) < count:
        level += 1
    assert even_share(count, others) == level


def pipeline(num_stages: int, *jobs: ClaimedJob, **changes: Any) -> Lane:
    """A lane of a pipeline that looks one step ahead, and opens a micro-batch for each job."""
    values: dict[str, Any] = {
        "num_stages": num_stages,
        "max_steps_in_flight": num_stages + 1,
        "target_batch_size": 1,
        "num_blocks": 64,
        "block_size": 16,
        "max_batch_size": 8,
        "max_step_tokens": 64,
    }
    return Lane(*jobs, **(values | changes))


def test_each_stage_has_a_micro_batch_and_the_next_step_is_there_already() -> None:
    lane = pipeline(2, job("a"), job("b"), job("c"))
    assert lane.rows == [[(1, 3), (2, 3)], [(3, 3)], [(1, 1), (2, 1)]]
    lane.tell(report(1, (1, 0, 5), (2, 0, 5)))
    assert lane.rows == [[(3, 1)]]


def test_a_sequence_alone_is_in_one_step_of_so_many() -> None:
    lane = pipeline(3, job("a"))
    assert lane.rows == [[(1, 3)], NO_ROWS, NO_ROWS, [(1, 1)]]
    lane.tell(report(1, (1, 0, 5)))
    assert lane.rows == [NO_ROWS]


def test_when_its_last_token_is_on_its_way_no_further_step_is_sent() -> None:
    lane = pipeline(2, job("a", max_tokens=1))
    assert lane.rows == [[(1, 3)]]


def test_the_chunks_of_a_prompt_are_as_far_apart() -> None:
    lane = pipeline(2, job("a", range(1, 11)), max_step_tokens=4, max_batch_size=2)
    assert lane.rows == [[(1, 4)], NO_ROWS, [(1, 4)]]


def test_a_micro_batch_is_filled_before_another_is_opened() -> None:
    jobs = [job(name, arrival_s=i) for i, name in enumerate("abc")]
    lane = pipeline(2, *jobs, target_batch_size=3)
    assert lane.rows == [[(1, 3), (2, 3), (3, 3)], NO_ROWS, [(1, 1), (2, 1), (3, 1)]]
    lane.tell(Claimed((job("d", arrival_s=9.0),)), report(1, (1, 0, 5), (2, 0, 5), (3, 0, 5)))
    # Step 4: the fourth one opens the other micro-batch, and has it for itself until step 5.
    assert lane.rows == [[(4, 3)]]
    lane.tell(report(2))
    assert lane.rows == [[(1, 1), (2, 1)]]
    lane.tell(report(3, (1, 1, 5), (2, 1, 5), (3, 1, 5)))
    # Whoever was left over in step 5 is in step 6.
    assert lane.rows == [[(3, 1), (4, 1)]]


def test_newcomers_join_the_smallest() -> None:
    jobs = [job(name, arrival_s=i) for i, name in enumerate("abcde")]
    lane = pipeline(3, *jobs)
    assert [len(rows) for rows in lane.rows] == [2, 2, 1, 2]
    lane.tell(Claimed((job("f", arrival_s=9.0),)), report(1, (1, 0, 5), (2, 0, 5)))
    assert lane.rows == [[(3, 1), (4, 1)]]
    lane.tell(report(2, (3, 0, 5), (4, 0, 5)))
    assert lane.rows == [[(5, 1), (6, 3)]]


def test_a_micro_batch_that_lost_its_members_gets_some_of_the_others() -> None:
    jobs = [job(name, arrival_s=i) for i, name in enumerate("abcd")]
    lane = pipeline(2, *jobs, max_steps_in_flight=2)
    assert lane.rows == [[(1, 3), (2, 3)], [(3, 3), (4, 3)]]
    ended = [(i, FinishReason.STOP) for i in (1, 2)]
    freed = [(i, lane_block(lane, i)) for i in (1, 2)]
    lane.tell(report(1, (1, 0, 0), (2, 0, 0), finished=ended, freed=freed))
    assert lane.rows == [NO_ROWS]
    lane.tell(report(2, (3, 0, 5), (4, 0, 5)))
    assert lane.rows == [[(3, 1)]]
    lane.tell(report(3))
    assert lane.rows == [[(4, 1)]]


def lane_block(lane: Lane, sequence_id: int) -> list[int]:
    """The one block that a sequence of a short prompt has: they are given out in their order."""
    assert lane.core.num_free_blocks < 64
    return [sequence_id - 1]


def test_who_was_passed_over_goes_first() -> None:
    """Else the newest of all would be passed over from one micro-batch to the next."""
    roster = Roster()
    # The newest two were not in step 7, where their turn was.
    for last_step in (7, 7, 7, 9, 9, 9, 6, 6):
        [sequence] = sequences_of(job(f"j{len(roster.live)}", max_tokens=40), 64)
        roster.add(sequence)
        roster.admit().last_step = last_step
    config = core_config(num_stages=3, target_batch_size=1, max_batch_size=8)
    turn = MicroBatches(config, roster).turn(10, 0)
    assert turn.num_rows == 3
    assert [sequence.sequence_id for sequence in turn.ready] == [7, 8, 1, 2, 3]


def test_who_waits_for_a_block_takes_nobodys_share() -> None:
    config = core_config(num_stages=2, target_batch_size=1, num_blocks=3, max_context=12)
    pool, roster = BlockPool(3), Roster()
    # The first wants a second block, which comes back when the last one has left.
    for name, num_computed in (("needs", 4), ("has", 2), ("leaves", 2)):
        [sequence] = sequences_of(job(name, range(num_computed + 1)), 12)
        roster.add(sequence)
        roster.admit().block_ids = pool.allocate(1)
        sequence.num_computed, sequence.last_step = num_computed, 1
    roster.end(sequence)
    planner = Planner(config, pool, roster, Growth(config, OutputLengths()))
    assert planner.plan(10).sequence_ids == [2]


def test_prompts_are_spread_over_the_steps_that_the_stages_are_at() -> None:
    jobs = [job(name, (1,), arrival_s=i, max_tokens=30) for i, name in enumerate("abcd")]
    lane = pipeline(2, *jobs, max_steps_in_flight=2, block_size=4)
    lane.tell(report(1, (1, 0, 5), (2, 0, 5)), Claimed((job("e", [7] * 40, arrival_s=9.0),)))
    # 40 tokens, two micro-batches, two turns each.
    assert lane.rows == [[(1, 1), (2, 1), (5, 10)]]


def test_alone_a_prompt_is_computed_at_once() -> None:
    assert pipeline(4, job("a", [7] * 40)).rows[0] == [(1, 40)]


class Quiet:
    """A lane of a pipeline with room for everybody, and the sizes of its steps."""

    def __init__(self, num_stages: int, target: int, depth: int) -> None:
        self.lane = pipeline(
            num_stages,
            target_batch_size=target,
            max_steps_in_flight=num_stages - 1 + depth,
            num_blocks=256,
            max_batch_size=16,
        )
        self.num_stages = num_stages
        self.worker = ModelWorker(self.lane.core._config)
        self.commands: deque[StepCommand] = deque()
        self.sizes: list[int] = []
        self.num_calm = 0  # Steps since anybody came or went.
        self.num_jobs = 0

    def submit(self, max_tokens: int) -> None:
        self.num_jobs += 1
        newcomer = job(f"j{self.num_jobs}", (1,), max_tokens=max_tokens, seed=self.num_jobs)
        self.lane.tell(Claimed((newcomer,)))
        self._sent()

    def step(self) -> None:
        """Let the worker do a step, and the lane hear of it."""
        done = self.worker.execute(self.commands.popleft())
        if done.finished:
            self.num_calm = 0
        self.lane.tell(Reported(done), Committed(done.step))
        self._sent()

    def _sent(self) -> None:
        for command in self.lane.commands:
            self.commands.append(command)
            num_before = self.sizes[-self.num_stages] if len(self.sizes) >= self.num_stages else 0
            self.sizes.append(len(command.row_sequence_ids))
            is_calm = not command.admissions and self.sizes[-1] >= num_before
            self.num_calm = self.num_calm + 1 if is_calm else 0
            self._check()

    def _check(self) -> None:
        round_ = self.sizes[-self.num_stages :]
        if self.num_calm > 3 * self.num_stages:
            members = [size for size in round_ if size]
            assert max(members, default=0) - min(members, default=0) <= 1, "an uneven share"
            target = self.lane.core._config.target_rows
            if len(members) < self.num_stages:
                assert sum(members) <= target * len(members), "a stage runs dry"


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 2),
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 12)), min_size=1, max_size=14),
)
def test_no_micro_batch_runs_dry_while_another_has_more(
    num_stages: int, target: int, depth: int, jobs: list[tuple[int, int]]
) -> None:
    quiet = Quiet(num_stages, target, depth)
    for max_tokens, num_steps in jobs:
        quiet.submit(max_tokens)
        for _ in range(min(num_steps, 12)):
            if quiet.commands:
                quiet.step()
    while quiet.commands:
        quiet.step()
    assert not quiet.lane.core.job_ids
