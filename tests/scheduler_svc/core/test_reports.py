"""What a step's report says, and what is committed for it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler_svc.core.errors import ProtocolError
from scheduler_svc.core.events import Commit, Reported, StopHit
from stepserve.protocol.job import CommitRow, Finish
from stepserve.protocol.prompt_logprobs import PromptLogprobs
from stepserve.protocol.step import FinishReason, TokenLogprobs
from tests.scheduler_svc.core.build import Lane, job, report

STOP, LENGTH, ERROR = FinishReason.STOP, FinishReason.LENGTH, FinishReason.ERROR


def test_each_token_is_a_row_at_its_offset() -> None:
    lane = Lane(job("a"), job("b", n=2), max_steps_in_flight=1)
    lane.tell(report(1, (1, 0, 5), (2, 0, 6), (3, 0, 7)))
    assert lane.only(Commit) == Commit(
        1, (CommitRow("a", 0, 0, (5,)), CommitRow("b", 0, 0, (6,)), CommitRow("b", 1, 0, (7,)))
    )
    lane.tell(report(2, (1, 1, 8), (2, 1, 8), (3, 1, 9)))
    assert [row.offset for row in lane.only(Commit).rows] == [1, 1, 1]


def test_a_step_without_tokens_is_committed_too() -> None:
    lane = Lane(job("a", range(1, 21)), max_step_tokens=8)
    lane.tell(report(1))
    assert lane.only(Commit) == Commit(1, ())


def test_logprobs_go_with_the_tokens_of_those_who_asked() -> None:
    lane = Lane(job("a"), job("b", logprobs=1), job("c", logprobs=0), max_steps_in_flight=1)
    logprobs = {1: TokenLogprobs(-0.5, ((6, -0.5),)), 2: TokenLogprobs(-0.7)}
    lane.tell(report(1, (1, 0, 5), (2, 0, 6), (3, 0, 7), logprobs=logprobs))
    assert [row.logprobs for row in lane.only(Commit).rows] == [
        (),
        (TokenLogprobs(-0.5, ((6, -0.5),)),),
        (TokenLogprobs(-0.7),),
    ]


@pytest.mark.parametrize("finished", [[], [(1, STOP)]])
def test_a_prompt_that_an_older_worker_does_not_score_is_an_error(
    finished: list[tuple[int, FinishReason]],
) -> None:
    scored = {"logprobs": 0, "prompt_logprobs": 0}
    lane = Lane(job("a", **scored), job("b", logprobs=0), max_steps_in_flight=1)
    told = {0: TokenLogprobs(-0.5), 1: TokenLogprobs(-0.5)}
    freed = [(sequence_id, [0]) for sequence_id, _ in finished]
    lane.tell(
        report(1, (1, 0, 5), (2, 0, 6), logprobs=told, finished=finished, freed=freed),
    )
    row, other = lane.only(Commit).rows
    assert row.finish is not None
    assert row.finish.reason == "error"
    assert "has to be upgraded" in row.finish.message
    assert other.finish is None
    assert lane.core.job_ids == {"b"}


def test_a_prompt_is_scored_with_the_first_token_alone() -> None:
    lane = Lane(job("a", logprobs=0, prompt_logprobs=0), max_steps_in_flight=1)
    # Of one token: there is none to tell of.
    scored = TokenLogprobs(-0.5, (), PromptLogprobs())
    lane.run(report(1, (1, 0, 5), logprobs={0: scored}))
    lane.tell(report(2, (1, 1, 6), logprobs={0: TokenLogprobs(-0.5)}))
    assert [row.finish for row in lane.only(Commit).rows] == [None]


@pytest.mark.parametrize(("reason", "text"), [(STOP, "stop"), (LENGTH, "length")])
def test_the_last_token_and_the_end_are_one_row(reason: FinishReason, text: str) -> None:
    lane = Lane(job("a"), max_steps_in_flight=1)
    lane.tell(report(1, (1, 0, 5), finished=[(1, reason)], freed=[(1, [0])]))
    assert lane.only(Commit).rows == (CommitRow("a", 0, 0, (5,), (), Finish(text)),)
    assert lane.commands == []
    assert (lane.core.num_free_blocks, lane.core.num_departing) == (16, 0)


def test_an_end_without_a_token_is_a_row_without_one() -> None:
    lane = Lane(job("a"), max_steps_in_flight=1)
    lane.tell(report(1, (1, 0, 5)))
    lane.tell(report(2, finished=[(1, ERROR)], freed=[(1, [0])]))
    (row,) = lane.only(Commit).rows
    assert (row.offset, row.token_ids) == (1, ())
    assert row.finish is not None
    assert row.finish.reason == "error"
    assert lane.core.num_free_blocks == 16


def test_blocks_named_after_the_end_come_back_with_the_step_that_named_them() -> None:
    lane = Lane(job("a", (1, 2, 3, 4), max_tokens=9))
    assert [command.new_block_ids for command in lane.commands] == [[0], [1]]
    lane.tell(report(1, (1, 0, 5), finished=[(1, STOP)], freed=[(1, [0])]))
    assert (lane.core.num_free_blocks, lane.core.num_departing) == (15, 1)
    assert lane.commands == []
    lane.tell(report(2, freed=[(1, [1])]))
    assert (lane.core.num_free_blocks, lane.core.num_departing) == (16, 0)
    assert lane.only(Commit) == Commit(2, ())


def test_an_ended_output_is_live_no_more_while_its_blocks_are_awaited() -> None:
    lane = Lane(job("a"), job("b", arrival_s=1.0))
    lane.tell(report(1, (1, 0, 5), (2, 0, 5), finished=[(1, STOP)], freed=[(1, [0])]))
    assert lane.core.job_ids == {"b"}
    assert lane.rows == [[(2, 1)]]


@pytest.mark.parametrize("step", [1, 2])
def test_a_report_that_came_before_changes_nothing(step: int) -> None:
    lane = Lane(job("a"))
    lane.run(report(1, (1, 0, 5)), report(2, (1, 1, 6)))
    assert lane.tell(report(step, (1, step - 1, 99))) == []
    lane.tell(report(3, (1, 2, 7)))
    assert lane.only(Commit).rows == (CommitRow("a", 0, 2, (7,)),)


def test_a_report_of_another_incarnation_changes_nothing() -> None:
    lane = Lane(job("a"))
    stale = replace(report(1, (1, 0, 99)).report, incarnation="f" * 32)
    assert lane.tell(Reported(stale)) == []
    lane.tell(report(1, (1, 0, 5)))
    assert lane.only(Commit).rows == (CommitRow("a", 0, 0, (5,)),)


def test_a_report_ahead_of_its_turn_is_an_error() -> None:
    with pytest.raises(ProtocolError, match="step 2 is reported"):
        Lane(job("a")).tell(report(2, (1, 0, 5)))


@pytest.mark.parametrize("offset", [0, 2])
def test_a_token_at_another_offset_is_an_error(offset: int) -> None:
    lane = Lane(job("a"))
    lane.tell(report(1, (1, 0, 5)))
    with pytest.raises(ProtocolError, match=f"offset {offset}, not 1"):
        lane.tell(report(2, (1, offset, 6)))


@pytest.mark.parametrize(
    "event",
    [report(1, (9, 0, 5)), report(1, finished=[(9, STOP)]), report(1, freed=[(9, [0])])],
)
def test_a_sequence_the_worker_cannot_know_is_an_error(event: object) -> None:
    with pytest.raises(ProtocolError, match="sequence 9 is not at the worker"):
        Lane(job("a")).core.handle([event])  # type: ignore[list-item]


def test_blocks_that_a_sequence_does_not_hold_are_an_error() -> None:
    with pytest.raises(ProtocolError, match="does not hold"):
        Lane(job("a"), job("b")).tell(report(1, finished=[(1, STOP)], freed=[(1, [1])]))


def test_a_sequence_that_ends_and_keeps_its_blocks_is_an_error() -> None:
    lane = Lane(job("a"), max_steps_in_flight=1)
    with pytest.raises(ProtocolError, match="kept blocks"):
        lane.tell(report(1, (1, 0, 5), finished=[(1, STOP)]))


def test_a_stop_string_ends_the_output_with_its_token() -> None:
    lane = Lane(job("a"))
    lane.tell(report(1, (1, 0, 5), stops={1: StopHit(0, text_bytes=3)}))
    assert lane.only(Commit).rows == (CommitRow("a", 0, 0, (5,), (), Finish("stop", text_bytes=3)),)
    assert lane.commands[0].release_ids == (1,)
    assert lane.rows == [[]]


def test_a_text_that_cannot_be_made_ends_its_output_and_no_other() -> None:
    lane = Lane(job("a"), job("b"))
    lane.tell(report(1, (1, 0, 5), (2, 0, 5), stops={1: StopHit(0, -1, "no text")}))
    rows = lane.only(Commit).rows
    assert [row.finish for row in rows] == [Finish("error", "no text"), None]
    assert lane.core.job_ids == {"b"}


def test_tokens_after_a_stop_string_are_dropped() -> None:
    lane = Lane(job("a"))
    lane.tell(report(1, (1, 0, 5), stops={1: StopHit(0, text_bytes=3)}))
    lane.tell(report(2, (1, 1, 6), stops={1: StopHit(1, text_bytes=4)}))
    assert lane.only(Commit) == Commit(2, ())
    lane.tell(report(3, freed=[(1, [0])]))
    assert (lane.core.num_free_blocks, lane.core.num_departing) == (16, 0)


def test_tokens_after_a_stop_string_in_the_same_report_are_dropped() -> None:
    lane = Lane(job("a"))
    lane.tell(report(1, (1, 0, 5), (1, 1, 6), stops={1: StopHit(0, text_bytes=3)}))
    assert [row.token_ids for row in lane.only(Commit).rows] == [(5,)]


def test_tokens_before_a_stop_string_in_the_same_report_do_not_end_it() -> None:
    lane = Lane(job("a"))
    lane.tell(report(1, (1, 0, 5), (1, 1, 6), stops={1: StopHit(1, text_bytes=3)}))
    rows = lane.only(Commit).rows
    assert [(row.token_ids, row.finish is not None) for row in rows] == [
        ((5,), False),
        ((6,), True),
    ]


def test_a_stop_string_goes_before_the_worker_s_reason_and_nothing_is_released() -> None:
    lane = Lane(job("a"), max_steps_in_flight=1)
    lane.tell(
        report(
            1,
            (1, 0, 5),
            finished=[(1, LENGTH)],
            freed=[(1, [0])],
            stops={1: StopHit(0, text_bytes=3)},
        )
    )
    (row,) = lane.only(Commit).rows
    assert row.finish == Finish("stop", text_bytes=3)
    assert lane.commands == []
    assert lane.core.num_free_blocks == 16


def test_a_sequence_that_ended_by_itself_before_its_release_was_sent_needs_none() -> None:
    lane = Lane(job("a"), max_uncommitted_steps=2)
    lane.tell(report(1, (1, 0, 5), stops={1: StopHit(0, text_bytes=3)}))
    assert lane.commands == []
    lane.tell(report(2, (1, 1, 6), finished=[(1, LENGTH)], freed=[(1, [0])]))
    assert lane.only(Commit) == Commit(2, ())
    assert lane.commands == []
    assert (lane.core.num_free_blocks, lane.core.num_departing) == (16, 0)


def test_a_sequence_that_ended_by_itself_while_its_release_was_on_its_way() -> None:
    lane = Lane(job("a"))
    lane.tell(report(1, (1, 0, 5), stops={1: StopHit(0, text_bytes=3)}))
    assert lane.commands[0].release_ids == (1,)
    lane.tell(report(2, (1, 1, 6), finished=[(1, LENGTH)], freed=[(1, [0])]))
    assert (lane.core.num_free_blocks, lane.core.num_departing) == (16, 1)
    lane.tell(report(3))
    assert lane.core.num_departing == 0
