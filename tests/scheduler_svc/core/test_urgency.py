"""Who goes first, who gives way, and what time and batches have to do with it."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler_svc.core import victim
from scheduler_svc.core.budget import StepBudget
from scheduler_svc.core.events import Claim, Claimed, Commit, Committed, Ticked
from scheduler_svc.core.growth import Growth
from scheduler_svc.core.intake import sequences_of
from scheduler_svc.core.lengths import OutputLengths
from scheduler_svc.core.punctuality import Punctuality
from scheduler_svc.core.sequence import Sequence
from stepserve.protocol.step import FinishReason
from tests.scheduler_svc.core.build import Lane, core_config, job, report


def running(*ranks_and_computed: tuple[float, int]) -> list[Sequence]:
    found = []
    for number, (rank, num_computed) in enumerate(ranks_and_computed):
        (sequence,) = sequences_of(job(f"job{number}", rank=rank), 64)
        sequence.num_computed = num_computed
        found.append(sequence)
    return found


def test_the_cheapest_of_the_less_urgent_half_gives_way() -> None:
    sequences = running((1.0, 2), (2.0, 3), (3.0, 9), (4.0, 8))
    assert victim.for_blocks(sequences) is sequences[3]
    assert victim.for_blocks(sequences[:3]) is sequences[1]
    assert victim.for_blocks(sequences[:2]) is sequences[1]


def test_who_gave_way_before_costs_more() -> None:
    sequences = running((1.0, 0), (2.0, 5), (3.0, 4))
    sequences[2].num_preemptions = 1
    assert victim.for_blocks(sequences) is sequences[1]


def test_the_lowest_rank_is_let_in_first_whenever_it_came() -> None:
    lane = Lane(max_batch_size=1)
    assert lane.only(Claim) == Claim(1)
    lane = Lane(job("a"), max_batch_size=2, max_steps_in_flight=1)
    lane.tell(Claimed((job("b", n=2, rank=5.0),)))
    assert lane.core.num_waiting == 2
    lane.tell(report(1, (1, 0, 5)))
    assert [a.job_id for a in lane.commands[0].admissions] == ["b"]


def full_lane(**changes: Any) -> Lane:
    """Two places, both taken, by jobs of rank 10 and 20."""
    config = {"max_batch_size": 2, "preemption_margin": 3.0, "max_steps_in_flight": 1}
    lane = Lane(job("a", rank=10.0), job("b", rank=20.0), **(config | changes))
    lane.tell(report(1, (1, 0, 5), (2, 0, 5)), Committed(1))
    return lane


def test_a_full_lane_asks_for_one_who_could_displace_somebody() -> None:
    lane = Lane(job("a", rank=10.0), job("b", rank=20.0), max_batch_size=2, preemption_margin=3.0)
    lane.tell(Claimed(()))
    assert lane.only(Claim) == Claim(1, 17.0)


def test_a_full_lane_asks_for_nobody_where_nobody_is_displaced() -> None:
    lane = Lane(job("a", rank=10.0), job("b", rank=20.0), max_batch_size=2)
    lane.tell(Claimed(()))
    assert lane.every(Claim) == []


def test_the_much_more_urgent_takes_the_place_of_the_least_urgent() -> None:
    lane = full_lane()
    lane.tell(Claimed((job("c", rank=1.0),)))
    lane.tell(report(2, (1, 1, 5), (2, 1, 5)))
    (command,) = lane.commands
    assert command.release_ids in {(1,), (2,)}
    assert [a.job_id for a in command.admissions] == ["c"]
    assert lane.core.counts.num_preemptions == 1


def test_nobody_gives_way_in_vain() -> None:
    lane = Lane(
        job("a", [1] * 36, rank=0.0),
        job("b", [2] * 8, rank=20.0),
        preemption_margin=3.0,
        max_step_tokens=64,
        max_steps_in_flight=1,
    )
    # Of 16 blocks a keeps 9; c wants 10, with those of b there are 7.
    lane.tell(Claimed((job("c", [3] * 40, rank=1.0),)))
    lane.tell(report(1, (1, 0, 5), (2, 0, 5)))
    assert (lane.core.counts.num_preemptions, lane.core.num_waiting) == (0, 1)


def test_within_the_margin_it_waits() -> None:
    lane = full_lane()
    lane.tell(Claimed((job("c", rank=17.5),)))
    lane.tell(report(2, (1, 1, 5), (2, 1, 5)))
    assert lane.core.counts.num_preemptions == 0
    assert lane.core.num_waiting == 1


def test_who_was_displaced_goes_on_when_there_is_a_place() -> None:
    lane = full_lane()
    lane.tell(Claimed((job("c", rank=1.0),)))
    lane.tell(report(2, (1, 1, 5), (2, 1, 5)))
    (command,) = lane.commands
    (gone,) = command.release_ids
    stay = 3 - gone
    stop = [(3, FinishReason.STOP)]
    tokens = [(stay, 2, 5), (3, 0, 5)]
    # Newcomers get their blocks after those that grow.
    freed = [(3, command.new_block_ids[-1:]), (gone, [gone - 1])]
    lane.tell(report(3, *tokens, finished=stop, freed=freed))
    assert [a.job_id for a in lane.commands[0].admissions] == ["ab"[gone - 1]]
    assert lane.core.num_running == 2


def test_a_wish_is_repeated_only_when_it_changes() -> None:
    lane = Lane(max_batch_size=2)
    assert lane.only(Claim) == Claim(2)
    lane.tell()
    assert lane.every(Claim) == []
    lane.tell(Claimed((job("a"),)))
    assert lane.only(Claim) == Claim(1)


def test_while_more_wait_a_few_are_claimed_ahead_but_none_is_waited_for() -> None:
    lane = Lane(job("a"), job("b"), max_batch_size=2)
    assert lane.only(Claim) == Claim(1, stands=False)
    lane.tell(Claimed((job("c"),)))
    assert lane.every(Claim) == []
    assert lane.core.num_waiting == 1
    stop = [(1, FinishReason.STOP)]
    lane.tell(report(1, (1, 0, 5), (2, 0, 5), finished=stop, freed=[(1, [0])]))
    assert [a.job_id for a in lane.commands[0].admissions] == ["c"]
    assert lane.only(Claim) == Claim(1, stands=False)
    lane.tell(Claimed(()))
    assert lane.every(Claim) == []


def test_without_preemption_nobody_comes_who_might_not_find_room_later() -> None:
    jobs = (job("a", max_tokens=30), job("b", max_tokens=30, arrival_s=1.0))
    # 16 blocks of 4 hold 64 tokens: two times 32 fit, two times 34 do not.
    assert Lane(*jobs, enable_preemption=False).core.num_running == 2
    jobs = (job("a", max_tokens=32), job("b", max_tokens=32, arrival_s=1.0))
    assert Lane(*jobs, enable_preemption=False).core.num_running == 1
    assert Lane(*jobs).core.num_running == 2


def test_a_static_batch_is_let_in_when_the_one_before_has_left() -> None:
    lane = Lane(job("a"), job("b"), batching="static", max_steps_in_flight=1)
    assert lane.only(Claim) == Claim(4)
    lane.tell(Claimed((job("c"), job("d"))))
    stop = [(1, FinishReason.STOP)]
    lane.tell(report(1, (1, 0, 5), (2, 0, 5), finished=stop, freed=[(1, [0])]))
    assert lane.rows == [[(2, 1)]]
    assert (lane.core.num_running, lane.core.num_waiting) == (1, 2)
    stop = [(2, FinishReason.STOP)]
    lane.tell(report(2, (2, 1, 5), finished=stop, freed=[(2, [1])]))
    assert [a.job_id for a in lane.commands[0].admissions] == ["c", "d"]


def test_in_a_static_batch_nobody_is_displaced() -> None:
    lane = full_lane(batching="static")
    lane.tell(Claimed((job("urgent", rank=0.0),)))
    lane.tell(report(2, (1, 1, 5), (2, 1, 5)))
    assert (lane.core.counts.num_preemptions, lane.core.num_waiting) == (0, 1)


def test_a_static_batch_larger_than_a_step_still_enters_together() -> None:
    jobs = [job(name, [1] * 5, arrival_s=i) for i, name in enumerate("abc")]
    lane = Lane(*jobs, batching="static", max_steps_in_flight=3, max_step_tokens=8)
    lane.tell(Claimed((job("d", arrival_s=9.0),)))
    assert lane.core.num_running == 3
    lane.tell(report(1, (1, 0, 5)))
    assert lane.core.num_waiting == 1


def test_who_is_late_ends_with_the_tokens_it_has() -> None:
    lane = Lane(job("a", deadline_s=10.0), max_steps_in_flight=1)
    lane.tell(report(1, (1, 0, 5)))
    lane.tell(Ticked(9.9))
    assert lane.every(Commit) == []
    lane.tell(Ticked(10.0))
    (row,) = lane.only(Commit).rows
    assert (row.offset, row.token_ids) == (1, ())
    assert row.finish is not None
    assert row.finish.reason == "deadline"
    assert lane.core.job_ids == frozenset()


@pytest.mark.parametrize(("left_s", "is_late"), [(3.9, True), (4.1, False)])
def test_who_waits_and_would_be_late_is_ended_at_once(left_s: float, is_late: bool) -> None:
    config, lengths = core_config(max_step_tokens=4), OutputLengths()
    budget = StepBudget(config)
    punctuality = Punctuality(budget, Growth(config, lengths))
    (sequence,) = sequences_of(job("a", [1] * 8, max_tokens=20, deadline_s=100.0), 64)
    punctuality.watch(sequence)
    # Nothing is measured yet: nobody is judged.
    assert punctuality.late(100.0 - 0.001) == []
    budget.step_time.observe(4, 10**6)
    budget.step_time.observe(1, 10**6)
    for _ in range(8):
        lengths.add("", 2)
    # Two steps for the prompt and one for each of two tokens, a second each.
    late = punctuality.late(100.0 - left_s)
    assert [finish.reason for _, finish in late] == ["deadline"] * is_late
    if is_late:
        assert "s are needed, 3.90 s are left" in late[0][1].message
        assert punctuality.late(100.0) == []


def test_jobs_without_a_deadline_are_never_late() -> None:
    lane = Lane(job("a"))
    lane.tell(Ticked(1e12))
    assert lane.every(Commit) == []
