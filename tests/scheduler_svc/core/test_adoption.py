"""Which sequences go on when a worker changes hands, and what the core makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from scheduler_svc.core.adoption import Adoption, decide_adoption
from scheduler_svc.core.errors import ProtocolError
from scheduler_svc.core.events import Commit, Reported, StopHit
from stepserve.protocol.job import ClaimedJob, CommitRow, Finish
from stepserve.protocol.step import (
    FinishReason,
    HelloReply,
    ResidentSequence,
    StepReport,
    TokenLogprobs,
)
from tests.scheduler_svc.core.build import Lane, core_config, job, report
from tests.scheduler_svc.core.model_worker import INFO

LAST_STEP = 10
PROMPT = (1, 2, 3)


def held(sequence_id: int, job_id: str, num_tokens: int, **more: Any) -> ResidentSequence:
    """All but the last token are computed, in blocks of 4 from 10 times its id on."""
    num_computed = more.pop("num_computed", num_tokens - 1)
    blocks = tuple(10 * sequence_id + i for i in range(-(-num_computed // 4)))
    block_ids = more.pop("block_ids", blocks)
    index = more.pop("index", 0)
    return ResidentSequence(sequence_id, job_id, index, num_tokens, num_computed, block_ids)


def left(sequence_id: int, job_id: str) -> ResidentSequence:
    return ResidentSequence(sequence_id, job_id, 0, 0, 0)


def decide(
    jobs: Sequence[ClaimedJob],
    residents: Sequence[ResidentSequence] = (),
    reports: Sequence[Reported] = (),
    departed: Sequence[ResidentSequence] = (),
    **config: Any,
) -> Adoption:
    """The reports are those of the last steps, whatever numbers they have."""
    first = LAST_STEP - len(reports) + 1
    kept = [replace(each.report, step=first + i) for i, each in enumerate(reports)]
    reply = HelloReply(INFO, LAST_STEP, residents, len(kept), departed, last_sequence_id=7)
    limits = {"first_step": LAST_STEP + 1, "num_blocks": 60} | config
    return decide_adoption(jobs, reply, kept, core_config(**limits))


def begin(adoption: Adoption, stops: dict[int, StopHit] | None = None, **config: Any) -> Lane:
    limits = {"first_step": LAST_STEP + 1, "num_blocks": 60} | config
    lane = Lane(**limits)
    reports = [Reported(each, stops or {}) for each in adoption.reports]
    lane.tell(adoption.event, *reports)
    return lane


def tokens(reports: Sequence[StepReport]) -> list[list[tuple[int, int, int]]]:
    return [
        list(zip(r.token_sequence_ids, r.token_offsets, r.token_ids, strict=True)) for r in reports
    ]


def rows(lane: Lane) -> list[CommitRow]:
    return [row for commit in lane.every(Commit) for row in commit.rows]


def test_who_has_what_log_and_reports_say_goes_on() -> None:
    jobs = [job("a", PROMPT, {0: (4, 5)})]
    adoption = decide(jobs, [held(3, "a", 7)], [report(1, (3, 2, 6)), report(2, (3, 3, 7))])
    assert [s.sequence_id for s in adoption.event.kept] == [3]
    assert (adoption.event.released, adoption.given_back) == ((), [])
    lane = begin(adoption)
    assert rows(lane) == [CommitRow("a", 0, 2, (6,)), CommitRow("a", 0, 3, (7,))]
    [first, second] = lane.commands
    assert (first.step, first.committed_step) == (LAST_STEP + 1, LAST_STEP - 2)
    assert (first.admissions, first.release_ids) == ([], ())
    assert lane.rows[0] == lane.rows[1] == [(3, 1)]
    assert second.new_block_ids == [], "it has room for its eighth token"


def test_what_the_log_has_already_is_not_taken_again() -> None:
    jobs = [job("a", PROMPT, {0: (4, 5, 6)})]
    adoption = decide(jobs, [held(3, "a", 7)], [report(1, (3, 2, 6)), report(2, (3, 3, 7))])
    assert tokens(adoption.reports) == [[], [(3, 3, 7)]]
    assert rows(begin(adoption)) == [CommitRow("a", 0, 3, (7,))]


@pytest.mark.parametrize(
    ("outputs", "num_tokens"),
    [((4, 5), 6), ((4, 5), 8), ((4,), 7), ((4, 5, 6, 7, 8), 7)],
    ids=["fewer", "more", "torn", "the log is ahead"],
)
def test_who_differs_is_released_and_waits(outputs: tuple[int, ...], num_tokens: int) -> None:
    jobs = [job("a", PROMPT, {0: outputs})]
    reports = [report(1, (3, 2, 6)), report(2, (3, 3, 7))]
    adoption = decide(jobs, [held(3, "a", num_tokens)], reports)
    assert (adoption.event.kept, [s.sequence_id for s in adoption.event.released]) == ((), [3])
    lane = begin(adoption)
    assert rows(lane) == []
    [command, *_] = lane.commands
    assert list(command.release_ids) == [3]
    [admission] = command.admissions
    assert admission.token_ids == (*PROMPT, *outputs)
    assert admission.sequence_id == 8, "an id that was never used"


def test_what_nobody_claims_is_released_and_its_blocks_come_back() -> None:
    adoption = decide([], [held(3, "gone", 7)])
    lane = begin(adoption)
    [command] = lane.commands
    assert (list(command.release_ids), lane.core.num_free_blocks) == ([3], 58)
    lane.tell(report(LAST_STEP + 1, freed=[(3, (30, 31))]))
    assert (lane.core.num_free_blocks, lane.core.num_departing) == (60, 0)


def test_jobs_of_which_the_worker_has_nothing_are_given_back() -> None:
    adoption = decide([job("a"), job("b")], [held(3, "a", 3)])
    assert adoption.given_back == ["b"]
    assert [j.spec.job_id for j in adoption.event.jobs] == ["a"]


def test_an_end_that_was_reported_ends_it() -> None:
    ended = [(3, FinishReason.LENGTH)]
    reports = [report(1, (3, 0, 6)), report(2, (3, 1, 7), finished=ended, freed=[(3, (30,))])]
    adoption = decide([job("a", PROMPT, max_tokens=2)], (), reports, [left(3, "a")])
    lane = begin(adoption)
    assert rows(lane)[-1] == CommitRow("a", 0, 1, (7,), (), Finish("length"))
    assert (lane.core.job_ids, lane.core.num_departing) == (frozenset(), 0)
    assert lane.core.num_free_blocks == 60


def test_an_end_whose_token_is_in_the_log_ends_it() -> None:
    reports = [report(1, (3, 0, 6), finished=[(3, FinishReason.ERROR)])]
    adoption = decide([job("a", PROMPT, {0: (6,)})], (), reports, [left(3, "a")])
    [row] = rows(begin(adoption))
    assert (row.offset, row.token_ids, row.finish) == (1, (), Finish("error", row.finish.message))


def test_who_was_preempted_waits_with_the_tokens_that_were_reported() -> None:
    reports = [report(1, (3, 0, 6)), report(2, freed=[(3, (30,))])]
    adoption = decide([job("a", PROMPT)], (), reports, [left(3, "a")])
    lane = begin(adoption)
    assert rows(lane) == [CommitRow("a", 0, 0, (6,))]
    [admission] = lane.commands[0].admissions
    assert admission.token_ids == (*PROMPT, 6)


def test_who_was_preempted_and_let_in_again_is_one_sequence() -> None:
    reports = [report(1, (3, 0, 6)), report(2, (5, 1, 7))]
    adoption = decide([job("a", PROMPT)], [held(5, "a", 5)], reports, [left(3, "a")])
    assert tokens(adoption.reports) == [[(5, 0, 6)], [(5, 1, 7)]]
    assert rows(begin(adoption)) == [CommitRow("a", 0, 0, (6,)), CommitRow("a", 0, 1, (7,))]


def test_of_what_was_computed_twice_the_later_counts() -> None:
    # A lane between had released it, for want of a place, and let it in again.
    reports = [report(1, (3, 0, 6)), report(2, (3, 1, 7)), report(3, (3, 2, 8))]
    reports += [report(4, (5, 0, 26)), report(5, (5, 1, 27))]
    adoption = decide([job("a", PROMPT)], [held(5, "a", 5)], reports, [left(3, "a")])
    assert [s.sequence_id for s in adoption.event.kept] == [5]
    assert tokens(adoption.reports) == [[], [], [], [(5, 0, 26)], [(5, 1, 27)]]
    assert rows(begin(adoption)) == [CommitRow("a", 0, 0, (26,)), CommitRow("a", 0, 1, (27,))]


def test_an_end_that_was_computed_again_is_none() -> None:
    ended = [(3, FinishReason.STOP)]
    reports = [report(1, (3, 0, 6), finished=ended), report(2, (5, 0, 26))]
    departed = [left(3, "a"), left(5, "a")]
    lane = begin(decide([job("a", PROMPT)], (), reports, departed))
    assert rows(lane) == [CommitRow("a", 0, 0, (26,))]
    assert lane.core.job_ids == {"a"}


def test_who_has_other_tokens_than_its_log_is_released() -> None:
    jobs = [job("a", PROMPT, {0: (4, 5, 6)})]
    reports = [report(1, (3, 2, 66)), report(2, (3, 3, 7))]
    assert decide(jobs, [held(3, "a", 7)], reports).event.kept == ()


def test_a_stop_string_in_the_reports_ends_it_and_the_worker_lets_it_go() -> None:
    reports = [report(1, (3, 0, 6)), report(2, (3, 1, 7))]
    adoption = decide([job("a", PROMPT)], [held(3, "a", 5)], reports)
    lane = begin(adoption, {3: StopHit(0, 5)})
    assert rows(lane) == [CommitRow("a", 0, 0, (6,), (), Finish("stop", text_bytes=5))]
    assert list(lane.commands[0].release_ids) == [3]


def test_log_probabilities_stay_with_their_tokens() -> None:
    logprobs = {0: TokenLogprobs(-1.0), 1: TokenLogprobs(-2.0)}
    reports = [report(1, (4, 0, 5), (3, 0, 6), logprobs=logprobs)]
    adoption = decide([job("a", PROMPT, logprobs=0)], [held(3, "a", 4)], reports)
    assert rows(begin(adoption)) == [CommitRow("a", 0, 0, (6,), (TokenLogprobs(-2.0),))]


def test_no_more_go_on_than_there_are_places_the_first_in_order_first() -> None:
    jobs = [job("late", arrival_s=2.0), job("early", arrival_s=1.0)]
    residents = [held(3, "late", 3), held(4, "early", 3)]
    adoption = decide(jobs, residents, max_batch_size=1)
    assert [s.sequence_id for s in adoption.event.kept] == [4]
    assert [s.sequence_id for s in adoption.event.released] == [3]


def test_shared_blocks_are_held_by_all_and_found_by_others() -> None:
    prompt = tuple(range(1, 10))
    outputs = [
        held(i, "a", 9, index=i - 3, block_ids=(0, 1, 10 + i), num_computed=8) for i in (3, 4)
    ]
    adoption = decide([job("a", prompt, n=2)], outputs)
    lane = begin(adoption)
    assert lane.core.counts.num_adopted_tokens == 16
    assert lane.core.num_free_blocks == 60 - 4
    assert lane.core.num_cached_tokens("", (*prompt, 99)) == 8
    assert lane.core.num_cached_tokens("another", (*prompt, 99)) == 0


def test_what_was_filled_is_found_once_all_is_reported() -> None:
    reports = [report(1, (3, 0, 6)), report(2, (3, 1, 7))]
    adoption = decide([job("a", PROMPT)], [held(3, "a", 5)], reports)
    lane = begin(adoption)
    assert lane.core.num_cached_tokens("", (*PROMPT, 6, 0)) == 4
    assert lane.core.num_cached_tokens("", (*PROMPT, 7, 0)) == 0


@pytest.mark.parametrize(
    "resident",
    [
        held(3, "a", 3, num_computed=3),
        held(3, "a", 3, block_ids=()),
        held(3, "a", 3, block_ids=(1, 2)),
    ],
    ids=["nothing is pending", "no block", "a block too many"],
)
def test_what_no_core_would_have_left_is_released(resident: ResidentSequence) -> None:
    assert decide([job("a", PROMPT)], [resident]).event.released == (resident,)


def test_an_output_that_is_cut_at_the_context_does_not_go_on() -> None:
    jobs = [job("a", PROMPT, {0: (4,)}, max_tokens=2)]
    adoption = decide(jobs, [held(3, "a", 5, num_computed=4)], [report(1, (3, 1, 5))])
    assert adoption.event.kept == ()


@pytest.mark.parametrize("block_ids", [(60,), (5, 5)])
def test_block_tables_that_cannot_be_are_the_workers_mistake(block_ids: tuple[int, ...]) -> None:
    with pytest.raises(ProtocolError, match="block"):
        decide([], [held(3, "a", 5, block_ids=block_ids)])


def test_reports_that_are_not_of_the_last_steps_are_the_workers_mistake() -> None:
    reply = HelloReply(INFO, LAST_STEP, (), 1)
    with pytest.raises(ProtocolError, match="step 9 is kept where 10 belongs"):
        decide_adoption([], reply, [report(9).report], core_config(first_step=LAST_STEP + 1))


def test_an_output_that_waits_and_is_full_ends() -> None:
    jobs = [job("a", PROMPT, {1: (1, 2)}, n=2, max_tokens=2)]
    adoption = decide(jobs, [held(3, "a", 3)])
    [row] = rows(begin(adoption))
    assert (row.index, row.offset, row.finish) == (1, 2, Finish("length"))
