"""A step is hung when it takes far longer than the steps before it tell."""

from __future__ import annotations

from scheduler_svc.lane.step_deadline import FACTOR, NUM_TO_LEARN, StepDeadline

LEAST_S, MOST_S = 2.0, 60.0


def learned(fixed_us: int, token_us: int, *sizes: int) -> StepDeadline:
    """What is known after steps of these sizes, each reported as often as it must be."""
    deadline = StepDeadline(LEAST_S, MOST_S)
    for num_tokens in sizes * NUM_TO_LEARN:
        deadline.observe(num_tokens, fixed_us + token_us * num_tokens)
    return deadline


def test_the_first_steps_may_compile_kernels() -> None:
    deadline = StepDeadline(LEAST_S, MOST_S)
    for _ in range(NUM_TO_LEARN):
        assert deadline.limit_s(8) == MOST_S
        deadline.observe(8, 20_000)
    assert deadline.limit_s(8) == LEAST_S
    assert deadline.limit_s(512) == MOST_S, "a size that is new"


def test_a_short_step_has_the_floor() -> None:
    assert learned(5_000, 100, 1, 4, 64).limit_s(64) == LEAST_S


def test_a_long_prompt_has_as_long_as_its_tokens_need() -> None:
    deadline = learned(20_000, 1_000, 1, 16, 1100)
    assert deadline.limit_s(16) == LEAST_S
    expected_s = FACTOR * (0.020 + 0.001 * 1500)
    assert abs(deadline.limit_s(1500) - expected_s) < 0.01 * expected_s


def test_no_step_has_longer_than_the_most() -> None:
    assert learned(0, 100_000, 1, 2048).limit_s(2048) == MOST_S
    assert StepDeadline(2.0, 0.5).limit_s(1) == 0.5
    short = StepDeadline(2.0, 0.5)
    for _ in range(NUM_TO_LEARN):
        short.observe(1, 100)
    assert short.limit_s(1) == 0.5, "the least is never more than the most"


def test_a_step_that_only_releases_teaches_nothing() -> None:
    deadline = learned(0, 1_000, 4)
    for _ in range(NUM_TO_LEARN):
        deadline.observe(0, 3)
    assert deadline.limit_s(0) == LEAST_S
    assert deadline.limit_s(4) == LEAST_S
