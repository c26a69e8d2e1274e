"""What a device tells of its times: how long nobody gave it anything to do."""

from __future__ import annotations

from stepserve_bench.oracle_worker.usage import Usage


def full_and_idle_s(*steps: tuple[float, float, int]) -> tuple[float, float]:
    usage = Usage(max_rows=4)
    for begin_s, end_s, num_rows in steps:
        usage.worked(begin_s, end_s, num_rows)
    figures = usage.figures()
    return figures["full_s"], figures["idle_s"]


def test_what_comes_late_leaves_the_device_idle() -> None:
    assert full_and_idle_s((1.0, 2.0, 4), (2.0, 3.0, 4)) == (2.0, 0.0)
    assert full_and_idle_s((1.0, 2.0, 4), (2.0, 3.0, 4), (3.5, 4.5, 2)) == (3.0, 0.5)


def test_only_steps_that_are_half_full_count() -> None:
    assert full_and_idle_s((0.0, 1.0, 1), (9.0, 10.0, 4), (19.0, 20.0, 1), (29.0, 30.0, 4)) == (
        2.0,
        0.0,
    )
