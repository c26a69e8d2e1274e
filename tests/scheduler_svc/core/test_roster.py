from __future__ import annotations

import pytest

from scheduler_svc.core.errors import IllegalMove, ProtocolError
from scheduler_svc.core.intake import sequences_of
from scheduler_svc.core.roster import Roster
from scheduler_svc.core.sequence import Sequence, State
from tests.scheduler_svc.core.build import job


def sequence(job_id: str, rank: float = 0.0) -> Sequence:
    (found,) = sequences_of(job(job_id, rank=rank), 64)
    return found


def roster(*sequences: Sequence) -> Roster:
    found = Roster()
    for each in sequences:
        found.add(each)
    found.check()
    return found


def test_the_lowest_rank_comes_first_whenever_it_was_added() -> None:
    late, early = sequence("late", 2.0), sequence("early", 1.0)
    subject = roster(late, early)
    assert subject.waiting == [early, late]
    assert [subject.admit() for _ in range(2)] == [early, late]
    assert (early.sequence_id, late.sequence_id) == (1, 2)
    subject.check()


def test_who_is_preempted_waits_again_once_no_step_names_it() -> None:
    subject = roster(only := sequence("a"))
    subject.admit()
    only.last_step = 3
    subject.preempt(only)
    assert subject.release(4) == (1,)
    subject.settle(3)
    assert (subject.num_departing, subject.waiting) == (1, [])
    subject.settle(4)
    assert (subject.num_departing, subject.waiting) == (0, [only])
    assert subject.admit().sequence_id == 2, "ids are not used again"
    subject.check()


def test_who_leaves_with_blocks_is_the_workers_mistake() -> None:
    subject = roster(only := sequence("a"))
    subject.admit()
    only.block_ids = [0]
    subject.end(only)
    subject.release(1)
    with pytest.raises(ProtocolError, match="kept blocks"):
        subject.settle(1)


def test_what_the_worker_ended_is_not_released() -> None:
    subject = roster(only := sequence("a"))
    subject.admit()
    subject.end(only)
    subject.finished(only.sequence_id)
    assert subject.release(1) == ()
    subject.settle(0)
    assert only.state is State.GONE
    assert not subject.residents


def test_an_unknown_sequence_is_the_workers_mistake() -> None:
    with pytest.raises(ProtocolError, match="sequence 5 is not at the worker"):
        roster().residents[5]


def test_nobody_ends_twice() -> None:
    subject = roster(only := sequence("a"))
    subject.end(only)
    assert not subject.live
    assert not subject.waiting
    with pytest.raises(IllegalMove):
        subject.end(only)


def test_quantiles_are_spread_evenly() -> None:
    sequences = [sequence(str(number)) for number in range(100)]
    roster(*sequences)
    found = sorted(each.quantile for each in sequences)
    assert all(abs(quantile - at / 100) < 0.03 for at, quantile in enumerate(found))


def test_the_lost_are_forgotten_with_their_blocks() -> None:
    subject = roster(running := sequence("a"), sequence("b", 1.0))
    subject.admit()
    running.block_ids = [3, 1]
    assert subject.forget() == [[3, 1]]
    assert not subject.live
    assert not subject.waiting
    subject.check()
