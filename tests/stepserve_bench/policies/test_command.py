"""How an experiment is told."""

from __future__ import annotations

from stepserve_bench.policies.command import line
from stepserve_bench.report.targets import at_least, at_most


def test_a_missed_target_is_told_with_what_limits_it() -> None:
    figures = {
        "what": "gain",
        **at_least(2.0, 3.0, "steps are long"),
        "not_ended": at_most(0, 0, "given up"),
    }
    first, second = line("priority", figures).splitlines()
    assert first.startswith("priority: gain: 2.00 (target: at least 3, ")
    assert "jobs that did not end: 0.00 (target: at most 0, " in first
    assert second == "  steps are long"
