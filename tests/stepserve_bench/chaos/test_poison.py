"""How many crashes a job that crashes its worker may take until it is convicted."""

from __future__ import annotations

from stepserve_bench.chaos.poison import too_many


def test_more_crashes_than_halving_takes_are_a_problem() -> None:
    # One among 31 others: the first, five of halving, two more.
    assert too_many(8, 31) == ""
    assert "9 crashes" in too_many(9, 31)
    assert too_many(9, 32) == ""
