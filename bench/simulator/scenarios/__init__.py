"""The experiments that the batching ideas are measured by, each a function with its target."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bench.simulator.scenarios.ground import Ground, Target, Verdict
from bench.simulator.scenarios.memory import computed_twice
from bench.simulator.scenarios.policies import fairness, urgency
from bench.simulator.scenarios.speed import latency, paging, split_fuse, throughput

Scenario = Callable[[Ground], Verdict]

SCENARIOS: Mapping[str, Scenario] = {
    "throughput": throughput,
    "latency": latency,
    "paging": paging,
    "split-fuse": split_fuse,
    "priority": urgency,
    "fair": fairness,
    "computed-twice": computed_twice,
}

__all__ = ["SCENARIOS", "Ground", "Scenario", "Target", "Verdict"]
