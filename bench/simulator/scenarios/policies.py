"""Experiments on who goes first: urgent jobs in a backlog, and a tenant that floods."""

from __future__ import annotations

from array import array

from bench.measured import percentile
from bench.simulator.arrivals import Poisson
from bench.simulator.collected import Collected, capacity
from bench.simulator.scenarios.ground import Ground, Target, Verdict
from bench.simulator.workload import Stream

_SECONDS = 60.0
_URGENT = 10
_NUM_TENANTS, _LOAD, _FLOOD = 5, 0.8, 10


def urgency(ground: Ground) -> Verdict:
    """A minute at twice the capacity; every tenth job is urgent."""
    rate = 2.0 * capacity(ground.saturate())
    stream = Stream(
        arrivals=Poisson(rate),
        lengths=ground.lengths,
        num_jobs=10**9,
        until_s=_SECONDS,
        urgent_share=0.1,
        urgent_priority=_URGENT,
    )
    fcfs = ground.run(stream, policy="fcfs")
    # Nobody waits longer than everything takes.
    weight = fcfs.span_s / _URGENT
    priority = ground.run(stream, policy="priority", priority_weight=weight)
    waits_ms = [_p99(run.groups[0].urgent_first_s) * 1e3 for run in (fcfs, priority)]
    return Verdict(
        name="priority",
        targets=(
            Target(
                claim="urgent jobs' p99 time to first token, fcfs over priority",
                value=waits_ms[0] / waits_ms[1],
                bound=5.0,
            ),
            Target(
                claim="share of jobs that ended",
                value=priority.num_ended / priority.groups[0].num_submitted,
                bound=1.0,
            ),
        ),
        details={
            "rate": rate,
            "priority_weight": weight,
            "fcfs_urgent_ttft_ms_p99": waits_ms[0],
            "priority_urgent_ttft_ms_p99": waits_ms[1],
            "jobs_submitted": priority.groups[0].num_submitted,
            "longest_latency_s": max(priority.groups[0].latency_s),
        },
    )


def fairness(ground: Ground) -> Verdict:
    """Five tenants send their shares of 80 % of the capacity; then one sends ten times that."""
    share = _LOAD * capacity(ground.saturate()) / _NUM_TENANTS
    duration_s = ground.num_jobs / (share * _NUM_TENANTS)
    calm = ground.run(*_tenants(ground, share, 1, duration_s), policy="fair")
    flooded = ground.run(*_tenants(ground, share, _FLOOD, duration_s), policy="fair")
    unfair = ground.run(*_tenants(ground, share, _FLOOD, duration_s), policy="fcfs")
    latencies_s = [_others_p99(run) for run in (calm, flooded, unfair)]
    return Verdict(
        name="fair",
        targets=(
            Target(
                claim="the others' p99 latency, a tenant at ten times its share over calm",
                value=latencies_s[1] / latencies_s[0],
                bound=1.3,
                is_ceiling=True,
            ),
        ),
        details={
            "share_requests_per_s": share,
            "calm_latency_s_p99": latencies_s[0],
            "flooded_latency_s_p99": latencies_s[1],
            "flooded_fcfs_latency_s_p99": latencies_s[2],
            "calm_ttft_ms_p99": _others_first_p99(calm) * 1e3,
            "flooded_ttft_ms_p99": _others_first_p99(flooded) * 1e3,
        },
    )


def _tenants(ground: Ground, share: float, factor: int, duration_s: float) -> list[Stream]:
    """The first tenant sends ``factor`` times its share."""
    return [
        Stream(
            arrivals=Poisson(share * (1 if number else factor)),
            lengths=ground.lengths,
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
