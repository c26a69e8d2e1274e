"""Experiments on who goes first: urgent jobs in a backlog, and a tenant that floods."""

from __future__ import annotations

from array import array

from stepserve_bench.measure.figures import percentile
from stepserve_bench.report.targets import Target
from stepserve_bench.simulator.collected import Collected, capacity
from stepserve_bench.simulator.scenarios.ground import Ground, Verdict
from stepserve_bench.simulator.streams import Stream
from stepserve_bench.workloads.arrivals import Poisson

_SECONDS = 60.0
_URGENT = 10
_NUM_TENANTS, _FLOOD = 5, 10


def urgency(ground: Ground) -> Verdict:
    """A minute at twice the capacity; every tenth job is urgent.

    The target is for a weight at which an urgent job goes before whoever waits longest; what
    the system's own weight gives is said beside it.
    """
    stream = ground.stream(
        arrivals=Poisson(2.0 * capacity(ground.saturate())),
        num_jobs=10**9,
        until_s=_SECONDS,
        urgent_share=0.1,
        urgent_priority=_URGENT,
    )
    fcfs = ground.run(stream, policy="fcfs")
    # Nobody waits longer than everything takes.
    weight, given = fcfs.span_s / _URGENT, ground.system.priority_weight
    raised = ground.run(stream, policy="priority", priority_weight=weight)
    as_given = ground.run(stream, policy="priority")
    waits_ms = [_p99(run.groups[0].urgent_first_s) * 1e3 for run in (fcfs, raised, as_given)]
    longest_s = max(fcfs.groups[0].first_s)
    return Verdict(
        name="priority",
        targets=(
            Target(
                claim="urgent jobs' p99 time to first token, fcfs over priority with weight "
                f"{weight:.3g} (times {_URGENT} at least the longest wait, {longest_s:.3g} s)",
                value=waits_ms[0] / waits_ms[1],
                bound=5.0,
                limit="an urgent job waits for a place, and for urgent ones before it",
            ),
        ),
        details={
            "priority_weight": weight,
            "fcfs_over_priority_with_given_weight": waits_ms[0] / waits_ms[2],
            "given_weight": given,
            "fcfs_urgent_ttft_ms_p99": waits_ms[0],
            "priority_urgent_ttft_ms_p99": waits_ms[1],
            "given_weight_urgent_ttft_ms_p99": waits_ms[2],
            "longest_latency_s": max(raised.groups[0].latency_s),
        },
        notes=(
            f"with weight {given:g} the ratio is {waits_ms[0] / waits_ms[2]:.2f}",
            f"all {raised.num_ended:,} jobs ended, the others too",
        ),
    )


def fairness(ground: Ground) -> Verdict:
    """Five tenants send a fifth of the capacity each; then one of them sends ten times that."""
    fair_rate = capacity(ground.saturate()) / _NUM_TENANTS
    duration_s = ground.num_jobs / (fair_rate * _NUM_TENANTS)
    calm = ground.run(*_tenants(ground, fair_rate, 1, duration_s), policy="fair")
    flooded = ground.run(*_tenants(ground, fair_rate, _FLOOD, duration_s), policy="fair")
    unfair = ground.run(*_tenants(ground, fair_rate, _FLOOD, duration_s), policy="fcfs")
    latencies_s = [_others_p99(run) for run in (calm, flooded, unfair)]
    firsts_ms = [_others_first_p99(run) * 1e3 for run in (calm, flooded, unfair)]
    return Verdict(
        name="fair",
        targets=(
            Target(
                claim="the others' p99 latency, a tenant at ten times its share over calm",
                value=latencies_s[1] / latencies_s[0],
                bound=1.3,
                is_ceiling=True,
                limit="who runs is not displaced, and a flood keeps every place filled",
            ),
        ),
        details={
            "share_requests_per_s": fair_rate,
            "calm_latency_s_p99": latencies_s[0],
            "flooded_latency_s_p99": latencies_s[1],
            "flooded_fcfs_latency_s_p99": latencies_s[2],
            "calm_ttft_ms_p99": firsts_ms[0],
            "flooded_ttft_ms_p99": firsts_ms[1],
            "flooded_fcfs_ttft_ms_p99": firsts_ms[2],
        },
        notes=tuple(
            f"the others' p99, {name}: latency {latency_s:.2f} s, first token {first_ms:.0f} ms"
            for name, latency_s, first_ms in zip(
                ("calm", "flooded", "flooded under fcfs"), latencies_s, firsts_ms, strict=True
            )
        ),
    )


def _tenants(ground: Ground, fair_rate: float, factor: int, duration_s: float) -> list[Stream]:
    """The first tenant sends ``factor`` times what is fair, a rate in jobs/s."""
    return [
        ground.stream(
            arrivals=Poisson(fair_rate * (1 if number else factor)),
            num_jobs=10**9,
            until_s=duration_s,
            tenant=f"tenant{number}",
        )
        for number in range(_NUM_TENANTS)
    ]


def _others_p99(run: Collected) -> float:
    return _p99(array("d", [s for group in run.groups[1:] for s in group.latency_s]))


def _others_first_p99(run: Collected) -> float:
    return _p99(array("d", [s for group in run.groups[1:] for s in group.first_s]))


def _p99(values: array[float]) -> float:
    return percentile(values, 0.99)
