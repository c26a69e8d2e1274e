"""What is computed already is not computed again."""

from __future__ import annotations

import pytest

from scheduler_svc.core.events import Claimed
from stepserve.protocol.step import FinishReason
from tests.scheduler_svc.core.build import Lane, job, report

PROMPT = (1, 2, 3, 4, 5, 6, 7, 8, 9)


def computed(prompt: tuple[int, ...] = PROMPT, **changes: object) -> Lane:
    """A lane at depth 1 that has computed a prompt of a job "a", which goes on."""
    lane = Lane(job("a", prompt), max_steps_in_flight=1, **changes)
    lane.tell(report(1, (1, 0, 5)))
    return lane


def cached(lane: Lane, *prompt: int, **more: object) -> tuple[int, tuple[int, ...]]:
    """How many tokens, in which blocks, another job finds computed."""
    lane.tell(Claimed((job("b", prompt, arrival_s=1.0, **more),)))
    lane.tell(report(2, (1, 1, 5)))
    (admission,) = lane.commands[0].admissions
    return admission.num_computed, tuple(admission.block_ids)


def test_the_same_beginning_is_found_in_full_blocks() -> None:
    lane = computed()
    assert cached(lane, 1, 2, 3, 4, 5, 9, 9, 9, 9) == (4, (0,))
    assert lane.rows == [[(1, 1), (2, 5)]]
    assert lane.commands[0].row_num_new_blocks == [0, 2]
    assert lane.core.counts.num_cached_tokens == 4


def test_the_last_token_is_always_computed() -> None:
    assert cached(computed(PROMPT[:8]), *PROMPT[:8]) == (4, (0,))


def test_another_tenant_finds_nothing() -> None:
    assert cached(computed(), *PROMPT, tenant="other") == (0, ())


def test_a_prompt_that_is_scored_is_computed_whole_until_it_has_output() -> None:
    scored = {"logprobs": 0, "prompt_logprobs": 0}
    assert cached(computed(), *PROMPT, 9, **scored) == (0, ())
    assert cached(computed(), *PROMPT, 9, outputs={0: (5,)}, **scored)[0] == 8


def test_without_prefix_caching_nothing_is_found() -> None:
    assert cached(computed(prefix_caching=False), *PROMPT) == (0, ())


def test_nothing_is_found_before_the_report_of_the_step_that_fills_it() -> None:
    lane = Lane(job("a", PROMPT), max_steps_in_flight=1)
    assert lane.core.num_cached_tokens("", PROMPT) == 0
    lane.tell(report(1, (1, 0, 5)))
    assert lane.core.num_cached_tokens("", PROMPT) == 8
    assert lane.core.num_cached_tokens("", PROMPT[:8]) == 4


def test_output_is_found_as_well_also_when_its_sequence_has_ended() -> None:
    lane = Lane(job("a", (1, 2)), max_steps_in_flight=1)
    lane.run(report(1, (1, 0, 5)), report(2, (1, 1, 6)))
    stop = [(1, FinishReason.STOP)]
    lane.tell(report(3, (1, 2, 7), finished=stop, freed=[(1, [0])]))
    assert lane.core.num_cached_tokens("", (1, 2, 5, 6, 9)) == 4


def test_a_step_that_broke_leaves_nothing_to_be_found() -> None:
    lane = Lane(job("a", PROMPT), max_steps_in_flight=1)
    lane.tell(report(1, finished=[(1, FinishReason.ERROR)], freed=[(1, [0, 1, 2])]))
    assert lane.core.num_cached_tokens("", PROMPT) == 0


def test_who_breaks_takes_all_its_blocks_out_of_the_index() -> None:
    lane = Lane(job("a", PROMPT), max_steps_in_flight=1, max_step_tokens=4)
    lane.tell(report(1))
    assert lane.core.num_cached_tokens("", PROMPT) == 4
    lane.tell(report(2))
    lane.tell(report(3, finished=[(1, FinishReason.ERROR)], freed=[(1, [0, 1, 2])]))
    assert lane.core.num_cached_tokens("", PROMPT) == 0


def test_a_row_planned_past_the_end_leaves_nothing_to_be_found() -> None:
    lane = Lane(job("a", (1, 2, 3)))
    stop = [(1, FinishReason.STOP)]
    lane.tell(report(1, (1, 0, 5), finished=stop, freed=[(1, [0])]))
    # Step 2 would have filled the block with token 5; the worker skipped it.
    lane.tell(report(2))
    assert lane.core.num_cached_tokens("", (1, 2, 3, 5, 9)) == 0


@pytest.mark.parametrize("num_blocks", [3, 5])
def test_shared_blocks_count_once_against_the_pool(num_blocks: int) -> None:
    lane = computed(num_blocks=num_blocks, max_context=12)
    lane.tell(Claimed((job("b", PROMPT, arrival_s=1.0),)))
    lane.tell(report(2, (1, 1, 5)))
    # It shares two blocks and wants one more, and each that runs keeps one to grow by.
    assert lane.core.num_running == (2 if num_blocks == 5 else 1)


def test_cached_blocks_that_nobody_holds_are_taken_from_what_is_free() -> None:
    lane = Lane(job("x", PROMPT), num_blocks=7, max_context=28, max_steps_in_flight=1)
    stop = [(1, FinishReason.STOP)]
    lane.tell(report(1, (1, 0, 5), finished=stop, freed=[(1, [0, 1, 2])]), Claimed(()))
    # Neither grows by a block: what both come to fits, so that alone keeps nobody out.
    lane.tell(Claimed((job("a", [9] * 5, max_tokens=3),)))
    wide = job("b", (*PROMPT, *[8] * 8), arrival_s=1.0, max_tokens=1)
    lane.tell(report(2, (2, 0, 5)), Claimed((wide,)))
    # Five are free; it wants three beside the two that it finds, and one is left to a.
    assert (lane.core.num_free_blocks, lane.core.num_waiting) == (5, 1)
