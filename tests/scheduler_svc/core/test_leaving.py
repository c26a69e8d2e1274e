"""Who leaves the worker before the end: cancelled, ended elsewhere, preempted, lost."""

from __future__ import annotations

from typing import Any

from scheduler_svc.core.events import (
    Cancelled,
    Claimed,
    Commit,
    Committed,
    Requeue,
    StopHit,
    WorkerLost,
)
from stepserve.protocol.job import CommitRow
from stepserve.protocol.step import FinishReason
from tests.scheduler_svc.core.build import Lane, job, report


def test_a_cancelled_job_that_waits_disappears() -> None:
    lane = Lane(job("a", n=2), max_batch_size=1)
    lane.tell(Cancelled(("a",)), report(1, (1, 0, 5)))
    assert lane.core.num_waiting == 0
    assert lane.commands[0].release_ids == (1,)
    assert lane.commands[0].admissions == []


def test_a_cancelled_job_is_released_by_the_next_command_and_its_tokens_are_dropped() -> None:
    lane = Lane(job("a"), job("b", arrival_s=1.0))
    lane.tell(Cancelled(("a",)))
    assert lane.commands == []
    assert lane.core.job_ids == {"b"}
    lane.tell(report(1, (1, 0, 5), (2, 0, 6)))
    assert [row.job_id for row in lane.only(Commit).rows] == ["b"]
    assert lane.commands[0].release_ids == (1,)
    assert lane.rows == [[(2, 1)]]
    lane.tell(report(2, (1, 1, 5), (2, 1, 6)))
    assert [row.job_id for row in lane.only(Commit).rows] == ["b"]
    assert lane.core.num_departing == 1
    lane.tell(report(3, (2, 2, 6), freed=[(1, [0])]))
    assert lane.core.num_departing == 0


def test_a_command_may_carry_only_releases_and_is_sent_at_once() -> None:
    lane = Lane(job("a"))
    lane.tell(report(1, (1, 0, 5)), Cancelled(("a",)))
    assert [command.release_ids for command in lane.commands] == [(1,)]
    lane.tell(report(2, (1, 1, 5)))
    assert lane.commands == []


def test_a_cancelled_job_can_end_at_the_worker_before_it_is_released() -> None:
    lane = Lane(job("a"))
    lane.tell(Cancelled(("a",)))
    stop = [(1, FinishReason.STOP)]
    lane.tell(report(1, (1, 0, 5), finished=stop, freed=[(1, [0])]))
    assert lane.effects[0] == Commit(1, ())
    assert lane.commands == []
    lane.tell(report(2))
    assert (lane.core.num_departing, lane.core.num_free_blocks) == (0, 16)


def test_cancelling_what_is_unknown_or_ended_does_nothing() -> None:
    lane = Lane(job("a"))
    assert lane.tell(Cancelled(("z",))) == []
    lane.tell(report(1, (1, 0, 5), stops={1: StopHit(0, 0)}))
    assert lane.tell(Cancelled(("a",))) == []


def test_an_output_that_had_ended_in_redis_leaves_alone() -> None:
    lane = Lane(job("a", n=2))
    lane.tell(report(1, (1, 0, 5), (2, 0, 5)))
    lane.tell(Committed(1, ended=(("a", 1),)), report(2, (1, 1, 5), (2, 1, 5)))
    assert [row.index for row in lane.only(Commit).rows] == [0]
    assert lane.commands[0].release_ids == (2,)
    assert lane.rows == [[(1, 1)]]


def test_the_end_that_redis_had_before_ours_is_news_to_nobody() -> None:
    lane = Lane(job("a"), max_steps_in_flight=1)
    stop = [(1, FinishReason.STOP)]
    lane.tell(report(1, (1, 0, 5), finished=stop, freed=[(1, [0])]))
    lane.tell(Committed(1, ended=(("a", 0),)))
    assert lane.effects == []


def test_who_came_last_gives_its_blocks_to_who_came_first() -> None:
    lane = Lane(max_steps_in_flight=1, num_blocks=4, max_context=16)
    lane.tell(Claimed((job("a", (1, 2, 3)), job("b", (1, 2, 3), arrival_s=1.0))))
    lane.tell(report(1, (1, 0, 5), (2, 0, 5)))
    for step in range(2, 6):
        lane.tell(report(step, (1, step - 1, 5), (2, step - 1, 5)))
    # Each holds two blocks for eight tokens; both want a third, none is left.
    assert lane.core.num_free_blocks == 0
    lane.tell(report(6, (1, 5, 5), (2, 5, 6)))
    assert lane.only(Commit).rows[1] == CommitRow("b", 0, 5, (6,))
    assert lane.commands[0].release_ids == (2,)
    assert lane.rows == [[]]
    lane.tell(report(7, freed=[(2, [1, 3])]))
    assert lane.rows == [[(1, 1)]]
    assert lane.commands[0].admissions == []
    assert (lane.core.num_waiting, lane.core.job_ids) == (1, {"a", "b"})


def preempted_lane(**changes: Any) -> Lane:
    """At depth 2; sequence 2 is released by step 7 while step 6 names it."""
    lane = Lane(num_blocks=4, max_context=16, **changes)
    lane.tell(Claimed((job("a", (1, 2, 3)), job("b", (1, 2, 3), arrival_s=1.0))))
    for step in range(1, 6):
        lane.tell(report(step, (1, step - 1, 5), (2, step - 1, 5)))
    assert lane.commands[0].step == 7
    assert lane.commands[0].release_ids == (2,)
    return lane


def test_tokens_that_arrive_while_it_is_preempted_are_committed() -> None:
    lane = preempted_lane()
    lane.tell(report(6, (1, 5, 5), (2, 5, 6)))
    assert lane.only(Commit).rows[1] == CommitRow("b", 0, 5, (6,))


def test_it_comes_back_under_another_id_with_all_its_tokens() -> None:
    lane = preempted_lane()
    stop = [(1, FinishReason.STOP)]
    lane.tell(report(6, (1, 5, 5), (2, 5, 6), finished=stop, freed=[(1, [0, 2])]))
    lane.tell(report(7, freed=[(2, [1, 3])]))
    (admission,) = lane.commands[0].admissions
    assert admission.sequence_id == 3
    assert admission.token_ids == (1, 2, 3, 5, 5, 5, 5, 5, 6)
    assert admission.num_prompt_tokens == 3
    # Blocks of the other, which had the same tokens, hold all but the last one.
    assert (admission.num_computed, admission.block_ids) == (8, (0, 2))
    assert lane.rows == [[(3, 1)], [(3, 1)]]
    assert (lane.core.counts.num_preemptions, lane.core.counts.num_recomputed_tokens) == (1, 0)


def test_without_a_prefix_index_it_is_computed_again() -> None:
    lane = preempted_lane(prefix_caching=False)
    stop = [(1, FinishReason.STOP)]
    lane.tell(report(6, (1, 5, 5), (2, 5, 6), finished=stop, freed=[(1, [0, 2])]))
    lane.tell(report(7, freed=[(2, [1, 3])]))
    assert lane.rows == [[(3, 9)], [(3, 1)]]
    assert lane.core.counts.num_recomputed_tokens == 8


def test_it_can_end_while_it_is_preempted() -> None:
    lane = preempted_lane()
    stop = [(2, FinishReason.STOP)]
    lane.tell(report(6, (1, 5, 5), (2, 5, 6), finished=stop, freed=[(2, [1, 3])]))
    assert lane.core.job_ids == {"a"}
    lane.tell(report(7))
    assert (lane.core.num_departing, lane.core.num_waiting) == (0, 0)


def test_it_can_be_cancelled_while_it_is_preempted() -> None:
    lane = preempted_lane()
    lane.tell(Cancelled(("b",)))
    lane.tell(report(6, (1, 5, 5), (2, 5, 6)))
    assert [row.job_id for row in lane.only(Commit).rows] == ["a"]
    lane.tell(report(7, freed=[(2, [1, 3])]))
    assert (lane.core.num_departing, lane.core.num_waiting) == (0, 0)


def test_a_stop_string_can_end_it_while_it_is_preempted() -> None:
    lane = preempted_lane()
    lane.tell(report(6, (1, 5, 5), (2, 5, 6), stops={2: StopHit(5, 1)}))
    assert lane.only(Commit).rows[1].finish is not None
    lane.tell(report(7, freed=[(2, [1, 3])]))
    assert lane.core.job_ids == {"a"}


def test_nobody_else_is_preempted_while_blocks_are_coming_back() -> None:
    lane = Lane(num_blocks=6, max_context=24, max_steps_in_flight=1)
    lane.tell(Claimed(tuple(job(name, (1, 2, 3), arrival_s=float(ord(name))) for name in "abc")))
    for step in range(1, 6):
        lane.tell(report(step, *((i, step - 1, 5) for i in (1, 2, 3))))
    lane.tell(report(6, *((i, 5, 5) for i in (1, 2, 3))))
    assert lane.commands[0].release_ids == (3,)
    assert lane.rows == [[]]
    assert lane.core.num_running == 2


def test_a_lost_worker_s_jobs_go_back_each_once() -> None:
    lane = Lane(job("a", n=2), job("b", arrival_s=1.0), max_batch_size=2)
    lane.tell(report(1, (1, 0, 5), (2, 0, 6)), WorkerLost())
    assert isinstance(lane.effects[0], Commit)
    assert lane.effects[1:] == [Requeue(("a", "b"))]
    assert (lane.core.num_running, lane.core.num_waiting) == (0, 0)
    assert lane.core.num_free_blocks == 16
    assert lane.core.num_steps_in_flight == 0


def test_ended_jobs_do_not_go_back_but_preempted_ones_do() -> None:
    lane = preempted_lane()
    stop = [(1, FinishReason.STOP)]
    lane.tell(report(6, (1, 5, 5), (2, 5, 6), finished=stop, freed=[(1, [0, 2])]))
    lane.tell(WorkerLost())
    assert lane.effects == [Requeue(("b",))]


def test_after_the_loss_reports_are_late_and_claimed_jobs_go_back() -> None:
    lane = Lane(job("a"))
    lane.tell(WorkerLost())
    assert lane.tell(report(1, (1, 0, 5)), Cancelled(("a",)), Committed(0), WorkerLost()) == []
    assert lane.tell(Claimed((job("b"), job("c")))) == [Requeue(("b", "c"))]
    assert lane.tell(Claimed(())) == []


def test_a_claim_that_was_out_when_the_worker_was_lost_is_not_made_again() -> None:
    lane = Lane()
    assert lane.tell(WorkerLost(), Claimed(())) == []
