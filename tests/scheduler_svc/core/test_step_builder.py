from __future__ import annotations

import pytest

from scheduler_svc.core.intake import sequences_of
from scheduler_svc.core.sequence import Sequence
from scheduler_svc.core.step_builder import StepBuilder
from tests.scheduler_svc.core.build import job


def sequence(num_prompt_tokens: int, max_tokens: int = 8) -> Sequence:
    (found,) = sequences_of(job("a", [1] * num_prompt_tokens, max_tokens=max_tokens), 64)
    return found


def test_a_row_takes_from_the_budget_and_is_remembered() -> None:
    builder, newcomer = StepBuilder(step=3, budget=10, block_size=4), sequence(9)
    builder.add_row(newcomer, 7, 3)
    assert builder.budget == 3
    assert (builder.num_tokens, builder.num_new_blocks) == ([7], [3])
    assert (newcomer.num_computed, newcomer.num_tokens, newcomer.last_step) == (7, 9, 3)


def test_a_row_that_leaves_nothing_pending_chooses_a_token() -> None:
    builder, newcomer = StepBuilder(step=1, budget=10, block_size=4), sequence(5)
    builder.add_row(newcomer, 5, 2)
    assert (newcomer.num_computed, newcomer.num_tokens) == (5, 6)


@pytest.mark.parametrize(("num_tokens", "num_full"), [(3, None), (4, 1), (8, 2), (9, 2)])
def test_only_a_row_that_fills_a_block_is_a_fill(num_tokens: int, num_full: int | None) -> None:
    builder, newcomer = StepBuilder(step=1, budget=16, block_size=4), sequence(10)
    builder.add_row(newcomer, num_tokens, 3)
    planned = builder.planned()
    assert planned.num_tokens == num_tokens
    assert list(planned.fills) == ([] if num_full is None else [(newcomer, num_full)])
