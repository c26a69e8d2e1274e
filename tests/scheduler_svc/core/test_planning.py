"""One step: who computes how much, in which blocks."""

from __future__ import annotations

import pytest

from scheduler_svc.core.events import Claimed, Committed
from stepserve.protocol.step import FinishReason, StepCommand
from tests.scheduler_svc.core.build import EPOCH, INCARNATION, Lane, job, report


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_as_many_steps_are_in_flight_as_the_depth_says(depth: int) -> None:
    lane = Lane(job("a"), max_steps_in_flight=depth)
    assert [command.step for command in lane.commands] == list(range(1, depth + 1))
    assert lane.core.num_steps_in_flight == depth
    lane.tell(report(1, (1, 0, 5)))
    assert [command.step for command in lane.commands] == [depth + 1]


def test_an_admission_its_row_and_the_decode_after_it() -> None:
    lane = Lane(job("a", (1, 2, 3, 4, 5)), first_step=5)
    first, second = lane.commands
    assert (first.epoch, first.incarnation, first.step) == (EPOCH, INCARNATION, 5)
    assert [admission.sequence_id for admission in first.admissions] == [1]
    assert (first.row_sequence_ids, first.row_num_tokens) == ([1], [5])
    assert (first.row_num_new_blocks, first.new_block_ids) == ([2], [0, 1])
    assert second == StepCommand(
        epoch=EPOCH,
        incarnation=INCARNATION,
        step=6,
        committed_step=4,
        admissions=[],
        row_sequence_ids=[1],
        row_num_tokens=[1],
        row_num_new_blocks=[0],
        new_block_ids=[],
    )


def test_with_nothing_to_do_nothing_is_sent() -> None:
    assert Lane().commands == []


def test_a_long_prompt_is_computed_in_chunks_of_the_budget() -> None:
    lane = Lane(job("a", range(1, 11)), max_step_tokens=4, max_steps_in_flight=5)
    assert lane.rows == [[(1, 4)], [(1, 4)], [(1, 2)], [(1, 1)], [(1, 1)]]
    assert [command.row_num_new_blocks for command in lane.commands] == [[3], [0], [0], [0], [0]]


def test_decodes_come_first_and_the_first_prompt_keeps_half_of_the_rest() -> None:
    lane = Lane(job("a", (1,)), job("b", range(1, 21)), max_step_tokens=8, max_batch_size=3)
    assert lane.rows == [[(1, 1), (2, 7)], [(1, 1), (2, 7)]]
    lane.tell(Claimed((job("c", (1, 2, 3, 4)),)))
    lane.tell(report(1, (1, 0, 5)))
    assert lane.rows == [[(1, 1), (3, 3), (2, 4)]]
    lane.tell(report(2, (1, 1, 5)))
    assert lane.rows == [[(1, 1), (3, 1), (2, 2)]]


def test_a_short_prompt_passes_a_long_one() -> None:
    lane = Lane(
        job("a", range(1, 13)),
        job("b", (1,), arrival_s=1.0),
        max_step_tokens=6,
        max_batch_size=2,
        max_steps_in_flight=3,
    )
    assert lane.rows == [[(1, 6)], [(2, 1), (1, 5)], [(1, 1), (2, 1)]]


def test_three_prompts_split_the_budget_and_the_first_gets_at_least_half() -> None:
    lane = Lane(max_step_tokens=8, max_steps_in_flight=1, num_blocks=32)
    jobs = [job(name, [i] * 20, arrival_s=i) for i, name in enumerate("abc", start=1)]
    lane.tell(Claimed(tuple(jobs)))
    assert lane.rows == [[(1, 8)]]
    lane.tell(report(1))
    assert lane.rows == [[(2, 4), (1, 4)]]
    lane.tell(report(2))
    assert lane.rows == [[(3, 4), (1, 4)]]
    lane.tell(report(3))
    assert lane.rows == [[(2, 4), (1, 4)]]


def test_a_short_prompt_passes_any_number_of_long_ones() -> None:
    lane = Lane(max_step_tokens=8, max_steps_in_flight=1)
    jobs = [job(name, [i] * 20, arrival_s=i) for i, name in enumerate("ab", start=1)]
    lane.tell(Claimed(tuple(jobs)))
    lane.tell(report(1), Claimed(()))
    lane.tell(Claimed((job("short", [3] * 3, arrival_s=9.0),)))
    lane.tell(report(2))
    assert lane.rows == [[(3, 3), (2, 1), (1, 4)]]


@pytest.mark.parametrize(("max_tokens", "max_context"), [(2, 64), (50, 5)])
def test_no_step_is_planned_past_the_last_token(max_tokens: int, max_context: int) -> None:
    lane = Lane(
        job("a", (1, 2, 3), max_tokens=max_tokens),
        max_context=max_context,
        max_steps_in_flight=4,
    )
    assert lane.rows == [[(1, 3)], [(1, 1)]]


def test_a_block_is_added_when_the_tokens_need_it() -> None:
    lane = Lane(job("a", (1, 2, 3)), max_steps_in_flight=7)
    assert [command.new_block_ids for command in lane.commands] == [[0], [], [1], [], [], [], [2]]


def test_first_come_is_first_served() -> None:
    lane = Lane(
        job("a", arrival_s=3.0), job("b", arrival_s=1.0), job("c", arrival_s=2.0), max_batch_size=3
    )
    assert [admission.job_id for admission in lane.commands[0].admissions] == ["b", "c", "a"]


def test_no_more_run_than_there_are_places() -> None:
    lane = Lane(job("a", n=3), max_batch_size=2)
    assert (lane.core.num_running, lane.core.num_waiting) == (2, 1)


def test_with_less_budget_than_places_all_that_run_still_decode_in_each_step() -> None:
    lane = Lane(job("a", n=4), max_step_tokens=2, max_steps_in_flight=4, max_batch_size=4)
    assert lane.rows == [[(1, 2)], [(1, 1), (2, 1)], [(1, 1), (2, 1)], [(1, 1), (2, 1)]]


def test_who_comes_in_leaves_a_block_to_each_that_runs() -> None:
    lane = Lane(job("a", range(1, 10)), num_blocks=5, max_context=20)
    lane.tell(Claimed((job("b", [9] * 5, arrival_s=1.0), job("c", (1,), arrival_s=2.0))))
    lane.tell(report(1, (1, 0, 5)))
    # Two blocks are free, b's prompt alone would take both. c would fit, but b is first.
    assert lane.rows == [[(1, 1)]]
    assert (lane.core.num_free_blocks, lane.core.num_waiting) == (2, 2)


def test_also_where_little_is_expected_a_block_is_left_to_each_that_runs() -> None:
    lane = Lane(
        max_steps_in_flight=1, num_blocks=5, block_size=16, max_context=80, max_step_tokens=32
    )
    lane.tell(Claimed((job("a", [1] * 16), job("b", [2] * 16, arrival_s=1.0))))
    lane.tell(Claimed((job("c", [3] * 16, arrival_s=2.0),)))
    lane.tell(report(1, (1, 0, 5), (2, 0, 5)))
    assert lane.rows == [[(1, 1), (2, 1)]]
    assert (lane.core.num_free_blocks, lane.core.num_waiting) == (1, 1)


def test_alone_a_sequence_may_take_every_block() -> None:
    lane = Lane(job("a", range(1, 16)), num_blocks=4, max_context=16)
    assert lane.rows == [[(1, 15)]]
    assert lane.core.num_free_blocks == 0


def test_a_freed_place_is_filled_in_the_next_step() -> None:
    lane = Lane(job("a"), max_batch_size=1)
    lane.tell(
        report(1, (1, 0, 5), finished=[(1, FinishReason.STOP)], freed=[(1, [0])]),
        Claimed(()),
    )
    lane.tell(Claimed((job("b"),)))
    assert [admission.sequence_id for admission in lane.commands[0].admissions] == [2]


def test_commands_tell_what_is_committed() -> None:
    lane = Lane(job("a"))
    lane.tell(report(1, (1, 0, 5)), Committed(1))
    assert [command.committed_step for command in lane.commands] == [1]


def test_planning_pauses_while_the_worker_must_keep_its_reports() -> None:
    lane = Lane(job("a"), max_uncommitted_steps=2)
    lane.tell(report(1, (1, 0, 5)))
    assert lane.commands == []
    lane.tell(report(2, (1, 1, 5)))
    assert lane.commands == []
    lane.tell(Committed(1))
    assert [(command.step, command.committed_step) for command in lane.commands] == [(3, 1)]
    lane.tell(Committed(2))
    assert [(command.step, command.committed_step) for command in lane.commands] == [(4, 2)]
