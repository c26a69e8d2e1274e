"""A device that only sleeps, and knows how long nobody gave it anything to do."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from stepserve_bench.path import null_worker
from stepserve_bench.path.null_worker import NullRunner
from worker_svc.core.limits import Limits

LIMITS = Limits(
    vocab_size=512,
    max_context=64,
    block_size=16,
    num_blocks=16,
    max_batch_size=4,
    max_step_tokens=8,
)


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(null_worker, "time", clock)
    return clock


def launch(runner: NullRunner, num_rows: int) -> None:
    runner.launch(cast(Any, SimpleNamespace(rows=[None] * num_rows, sampled=[])))


def test_steps_follow_each_other_and_what_comes_late_leaves_the_device_idle(clock: Clock) -> None:
    runner = NullRunner(LIMITS, step_s=1.0)
    launch(runner, 4)
    launch(runner, 4)  # ahead: until 102
    assert (runner.busy_s, runner.idle_s) == (2.0, 0.0)
    clock.now_s = 102.5
    launch(runner, 2)
    assert (runner.busy_s, runner.idle_s) == (3.0, 0.5)


def test_only_steps_that_are_half_full_count(clock: Clock) -> None:
    runner = NullRunner(LIMITS, step_s=1.0)
    for num_rows in (1, 4, 1, 4):
        clock.now_s += 10.0
        launch(runner, num_rows)
    assert (runner.busy_s, runner.idle_s) == (2.0, 0.0)


@pytest.mark.usefixtures("clock")
def test_a_step_without_rows_takes_no_time() -> None:
    runner = NullRunner(LIMITS, step_s=1.0)
    launch(runner, 4)
    launch(runner, 0)
    launch(runner, 4)
    assert (runner.busy_s, runner.idle_s) == (2.0, 0.0)
