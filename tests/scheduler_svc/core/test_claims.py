"""What a lane asks the queue for, and what it does with the answer."""

from __future__ import annotations

import pytest

from scheduler_svc.core.errors import ProtocolError
from scheduler_svc.core.events import Cancelled, Claim, Claimed, Commit, Committed
from stepserve.protocol.job import CommitRow, Finish
from stepserve.protocol.step import FinishReason
from tests.scheduler_svc.core.build import Lane, job, report

LENGTH = Finish("length")


def test_an_empty_core_claims_a_job_for_each_place_once() -> None:
    lane = Lane(max_batch_size=3)
    assert lane.effects == [Claim(3)]
    assert lane.tell() == []


def test_a_claim_that_was_answered_with_less_is_followed_by_one_for_the_rest() -> None:
    lane = Lane(max_batch_size=3)
    lane.tell(Claimed((job("a"),)))
    assert lane.only(Claim) == Claim(2)


def test_each_output_of_a_job_takes_a_place() -> None:
    lane = Lane(job("a", n=3), max_batch_size=4)
    assert lane.only(Claim) == Claim(1)
    lane.tell(Claimed((job("b", n=4),)))
    assert lane.every(Claim) == []
    assert (lane.core.num_running, lane.core.num_waiting) == (3, 4)


def test_nothing_is_claimed_while_every_place_is_taken() -> None:
    lane = Lane(job("a"), job("b"), max_batch_size=2)
    lane.tell(Claimed(()))
    assert lane.every(Claim) == []
    stop = [(1, FinishReason.STOP)]
    lane.tell(report(1, (1, 0, 5), (2, 0, 5), finished=stop, freed=[(1, [0])]))
    assert lane.only(Claim) == Claim(1)


def test_more_jobs_than_were_claimed_are_an_error() -> None:
    lane = Lane(max_batch_size=1)
    with pytest.raises(ProtocolError, match="2 jobs came, 1 were claimed"):
        lane.tell(Claimed((job("a"), job("b"))))


def test_a_job_goes_on_after_the_output_it_has() -> None:
    lane = Lane(job("a", (1, 2), outputs={0: (8, 9)}, max_tokens=4))
    (admission,) = lane.commands[0].admissions
    assert admission.token_ids == (1, 2, 8, 9)
    assert admission.num_prompt_tokens == 2
    lane.tell(report(1, (1, 2, 5)))
    assert lane.only(Commit).rows == (CommitRow("a", 0, 2, (5,)),)


def test_outputs_that_have_ended_are_not_computed_again() -> None:
    lane = Lane(job("a", n=3, outputs={0: (8,), 1: (9,)}, ended=(1,)))
    assert [admission.index for admission in lane.commands[0].admissions] == [0, 2]


def test_a_job_with_all_its_tokens_ends_without_a_step() -> None:
    lane = Lane(job("a", outputs={0: (7, 8, 9)}, max_tokens=3))
    assert lane.only(Commit) == Commit(0, (CommitRow("a", 0, 3, (), (), LENGTH),))
    assert lane.commands == []
    assert lane.core.job_ids == frozenset()
    lane.tell(Committed(0))


def test_a_prompt_that_fills_the_context_ends_without_a_step() -> None:
    lane = Lane(job("a", tuple(range(1, 9))), job("b", tuple(range(1, 8))), max_context=8)
    full = Finish("length", "the worker's context of 8 tokens is full")
    assert lane.only(Commit).rows == (CommitRow("a", 0, 0, (), (), full),)
    assert [admission.job_id for admission in lane.commands[0].admissions] == ["b"]


def test_one_output_ends_at_once_and_the_other_goes_on() -> None:
    lane = Lane(job("a", n=2, outputs={1: (7, 8)}, max_tokens=2))
    assert lane.only(Commit).rows == (CommitRow("a", 1, 2, (), (), LENGTH),)
    assert [admission.index for admission in lane.commands[0].admissions] == [0]


def test_such_an_end_bears_the_number_of_the_last_reported_step() -> None:
    lane = Lane(job("a"))
    lane.tell(report(1, (1, 0, 5)))
    lane.tell(Claimed((job("b", outputs={0: (7,)}, max_tokens=1),)))
    assert lane.only(Commit) == Commit(1, (CommitRow("b", 0, 1, (), (), LENGTH),))
    lane.run(Committed(1), Committed(1))


def test_a_job_that_is_here_already_goes_on_as_it_is() -> None:
    lane = Lane(job("a"))
    lane.tell(report(1, (1, 0, 5)), Claimed((job("a"),)))
    assert lane.core.num_running + lane.core.num_waiting == 1
    lane.tell(report(2, (1, 1, 6)))
    assert lane.only(Commit).rows == (CommitRow("a", 0, 1, (6,)),)


def test_a_job_cancelled_before_it_came_is_found_out_by_its_first_commit() -> None:
    lane = Lane(max_steps_in_flight=1)
    lane.tell(Cancelled(("a",)), Claimed((job("a"),)))
    lane.tell(report(1, (1, 0, 5)))
    lane.tell(report(2, (1, 1, 6)), Committed(1, ended=(("a", 0),)))
    assert lane.commands[0].release_ids == (1,)
    assert lane.core.job_ids == frozenset()
    lane.tell(report(3, freed=[(1, [0])]))
    assert lane.core.num_free_blocks == 16
