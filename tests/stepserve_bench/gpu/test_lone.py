"""One job alone, as the measure of the others."""

from __future__ import annotations

from stepserve_bench.gpu.lone import LoneRun


def test_a_lone_run_excuses_near_ties_only() -> None:
    run = LoneRun([4, 5, 6], [0.5, 1e-6, 0.5])
    assert run.difference([4, 5, 6]) == ""
    assert run.difference([4, 7, 8]) == ""
    assert "token 0 is 9, alone 4" in run.difference([9, 5, 6])
    assert "token 2" in run.difference([4, 5, 7])
    assert "2 tokens, alone 3" in run.difference([4, 5])
