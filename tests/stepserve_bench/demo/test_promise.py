"""The demonstration's kill: what a pause is, and that the texts are the same."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from stepserve_bench.demo.promise import Story, promise


@pytest.mark.parametrize(
    ("times_s", "pause_s"),
    [
        ([1.0, 2.0, 2.5, 4.0, 4.5], 1.5),  # killed at 2.2: what began before it counts
        ([1.0, 2.0], 0.0),  # ended before
        ([3.0, 3.5], 0.5),
        ([], 0.0),
    ],
)
def test_a_pause_is_the_longest_that_ended_after_the_kill(
    times_s: list[float], pause_s: float
) -> None:
    assert Story("", times_s=times_s).pause_s(2.2) == pause_s


@pytest.mark.long
def test_a_worker_is_killed_and_the_texts_are_the_same() -> None:
    printed = io.StringIO()
    assert promise(Console(file=printed, width=200))
    assert "kill -9" in printed.getvalue()
    assert "6 of 6 texts are what they were without it" in printed.getvalue()
