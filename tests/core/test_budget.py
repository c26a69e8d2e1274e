from __future__ import annotations

from scheduler_svc.core.budget import StepBudget
from tests.core.build import core_config


def settle(target_us: int, fixed_us: int, token_us: int, steps: int = 200) -> int:
    """Feed it steps of ``fixed_us`` and ``token_us`` a token that use the budget up."""
    budget = StepBudget(core_config(max_step_tokens=512, target_step_us=target_us))
    for _ in range(steps):
        budget.observe(budget.tokens, fixed_us + token_us * budget.tokens)
    return budget.tokens


def test_without_a_target_it_is_the_limit() -> None:
    assert settle(0, 100, 1000) == 512


def test_it_settles_where_a_step_takes_as_long_as_it_should() -> None:
    assert abs(settle(2000, 500, 10) - 150) <= 2


def test_it_never_leaves_its_bounds() -> None:
    assert settle(1, 500, 10) == 4 + 4  # all places, and a block's worth
    assert settle(10**6, 500, 10) == 512


def test_a_step_with_tokens_to_spare_does_not_raise_it() -> None:
    budget = StepBudget(core_config(max_step_tokens=512, target_step_us=2000))
    for _ in range(20):
        budget.observe(budget.tokens, 500 + 10 * budget.tokens)
    before = budget.tokens
    budget.observe(3, 530)
    assert budget.tokens == before


def test_its_pace_follows_the_steps() -> None:
    budget = StepBudget(core_config())
    assert budget.pace_us == 0
    budget.observe(10, 1000)
    assert budget.pace_us == 1000
    for _ in range(100):
        budget.observe(10, 3000)
    assert 2990 < budget.pace_us <= 3000
    budget.observe(0, 9999)
    assert budget.pace_us <= 3000
