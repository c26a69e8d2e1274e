"""The experiments that the batching ideas are measured by, each a function with its target."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from stepserve_bench.simulator.scenarios.ground import Ground, Verdict
from stepserve_bench.simulator.scenarios.memory import computed_twice
from stepserve_bench.simulator.scenarios.pipeline import pipeline
from stepserve_bench.simulator.scenarios.policies import fairness, urgency
from stepserve_bench.simulator.scenarios.speed import latency, paging, split_fuse, throughput

Scenario = Callable[[Ground], Verdict]

SCENARIOS: Mapping[str, Scenario] = {
    "throughput": throughput,
    "latency": latency,
    "paging": paging,
    "split-fuse": split_fuse,
    "priority": urgency,
    "fair": fairness,
    "computed-twice": computed_twice,
    "pipeline": pipeline,
}

# The command's settings that every experiment chooses itself, or has no use for …
_OWN = {
    "arrivals",
    "rate",
    "load",
    "clients",
    "burst_variation",
    "burst_s",
    "prefix_tokens",
    "tenants",
    "urgent_share",
    "urgent_priority",
    "storm_rate",
    "storm_prompt",
    "systems",
    "loads",
    "fit",
    "measured_on",
    "costs_out",
    "plots",
}
# … and those of each.
_CHOSEN: Mapping[str, set[str]] = {
    "throughput": {"batching", "attention"},
    "latency": {"batching", "attention"},
    "paging": {"batching", "attention"},
    "split-fuse": {"max_step_tokens"},
    "priority": {"policy"},
    "fair": {"policy"},
    "pipeline": {"batching", "attention", "max_batch_size", "pipeline_stages", "target_batch_size"},
    "computed-twice": {"prefix_caching", "enable_preemption", "num_blocks"},
}


def ignored(names: Collection[str], given: Collection[str]) -> list[str]:
    """Return which of the given settings none of the named experiments would heed."""
    deaf = _OWN | set.intersection(*(_CHOSEN[name] for name in names))
    return sorted(deaf & set(given))


__all__ = ["SCENARIOS", "Ground", "Scenario", "Verdict", "ignored"]
