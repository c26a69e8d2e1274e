from __future__ import annotations

import random

import pytest

from scheduler_svc.core.budget import StepBudget
from scheduler_svc.core.step_time import StepTime
from tests.scheduler_svc.core.build import core_config


def settle(target_us: int, fixed_us: int, token_us: int, steps: int = 50) -> int:
    """Feed it steps of ``fixed_us`` and ``token_us`` a token that use the budget up."""
    budget = StepBudget(core_config(max_step_tokens=512, target_step_us=target_us))
    for _ in range(steps):
        tokens = budget.tokens
        budget.step_time.observe(tokens, fixed_us + token_us * tokens)
    return budget.tokens


def test_without_a_target_it_is_the_limit() -> None:
    assert settle(0, 100, 1000) == 512


def test_it_settles_where_a_step_takes_as_long_as_it_should() -> None:
    assert abs(settle(2000, 500, 10) - 150) <= 2


def test_it_never_leaves_its_bounds() -> None:
    assert settle(1, 500, 10) == 4 + 4  # all places, and a block's worth
    assert settle(10**6, 500, 10) == 512


def test_a_light_step_that_was_slow_does_not_make_it_collapse() -> None:
    budget = StepBudget(core_config(max_step_tokens=2048, target_step_us=20_000))
    for tokens in (2048, 4, 900, 4, 1500, 4):
        budget.step_time.observe(tokens, 1000 + 9 * tokens)
    before = budget.tokens
    budget.step_time.observe(4, 2100)
    assert budget.tokens > 0.9 * before


@pytest.mark.parametrize("num_tokens", [1, 16, 300])
def test_the_line_through_noisy_steps_is_found(num_tokens: int) -> None:
    chance, step_time = random.Random(3), StepTime()
    for _ in range(300):
        tokens = chance.choice((1, 8, 16, 200, 512))
        step_time.observe(tokens, round((800 + 20 * tokens) * chance.uniform(0.9, 1.1)))
    assert step_time.predict_us(num_tokens) == pytest.approx(800 + 20 * num_tokens, rel=0.15)


def test_steps_of_one_size_say_what_such_a_step_takes() -> None:
    step_time = StepTime()
    assert step_time.predict_us(8) == 0
    for _ in range(10):
        step_time.observe(8, 1600)
    step_time.observe(0, 9999)
    assert step_time.predict_us(8) == pytest.approx(1600)
    assert step_time.predict_us(1) <= 1600


def test_one_long_prompt_does_not_make_short_steps_seem_long() -> None:
    step_time = StepTime()
    step_time.observe(1000, 1_500_000)
    for _ in range(9):
        step_time.observe(1, 10_000)
    assert step_time.predict_us(1) == pytest.approx(10_000, rel=0.05)
