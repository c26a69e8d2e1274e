"""Twice the load that can be served, a tenth of it urgent: priority beside fcfs."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from scheduler_svc.order import Order
from stepserve_bench.measure.figures import percentile
from stepserve_bench.measure.service_run import ServiceRun
from stepserve_bench.policies.trial import Trial
from stepserve_bench.report.targets import at_least, at_most
from stepserve_bench.workloads.outcome import Arrival, Outcome

LOAD, URGENT_SHARE, URGENT = 2.0, 0.1, 10
DEFAULT_WEIGHT = Order().priority_weight
TARGET = 5.0
# At this load the longest wait is as long as the load lasts; twice that leaves no doubt.
HEADROOM = 2.0
# A job that has not ended after so many times what all of them should take never will.
PATIENCE = 3.0


def run(trial: Trial, capacity: float, duration_s: float) -> dict[str, Any]:
    """Return the urgent jobs' times to first token under both policies.

    The weight is raised until an urgent job goes before any that waits: weight times priority is
    at least the longest wait, in seconds.
    """
    arrivals = _arrivals(trial, LOAD * capacity, duration_s)
    weight = max(DEFAULT_WEIGHT, HEADROOM * duration_s / URGENT)
    timeout_s = PATIENCE * LOAD * duration_s
    figures = {
        policy: _figures(
            trial.offered(arrivals, timeout_s=timeout_s, policy=policy, priority_weight=weight)
        )
        for policy in ("fcfs", "priority")
    }
    fcfs, priority = figures["fcfs"], figures["priority"]
    ratio = fcfs["urgent_ttft_s_p99"] / priority["urgent_ttft_s_p99"]
    given_up = f"{timeout_s:.0f} s after the start they were given up"
    not_ended = at_most(priority["num_not_ended"], 0, given_up)
    return {
        "what": "p99 time to first token of urgent jobs, fcfs over priority, at twice the capacity "
        f"(weight {weight:g}: being urgent is worth {weight * URGENT:.0f} s of waiting, and the "
        f"longest wait was {fcfs['longest_wait_s']:.0f} s; the default, {DEFAULT_WEIGHT:g}: "
        f"{DEFAULT_WEIGHT * URGENT:.0f} s)",
        **at_least(ratio, TARGET, _limit(fcfs, priority, capacity)),
        "not_ended": not_ended,
        "requests_per_s": LOAD * capacity,
        "priority_weight": weight,
        "num_jobs": len(arrivals),
        "num_urgent": sum(arrival.priority == URGENT for arrival in arrivals),
        **figures,
    }


def _limit(fcfs: dict[str, float], priority: dict[str, float], capacity: float) -> str:
    return (
        f"under priority an urgent job waits {priority['urgent_ttft_s_p50']:.2f} s (p50) and "
        f"{priority['urgent_ttft_s_p99']:.2f} s (p99) for one of the places, of which one is left "
        f"every {1 / capacity:.2f} s; fcfs makes it wait {fcfs['urgent_ttft_s_p99']:.2f} s (p99)"
    )


def _arrivals(trial: Trial, rate: float, duration_s: float) -> list[Arrival]:
    chance = random.Random(f"{trial.seed} urgent")
    return [
        replace(arrival, priority=URGENT if chance.random() < URGENT_SHARE else 0)
        for arrival in trial.poisson(rate, duration_s, "urgency")
    ]


def _figures(run: ServiceRun) -> dict[str, float]:
    urgent = [outcome for outcome in run.ended if outcome.arrival.priority]
    others = [outcome for outcome in run.ended if not outcome.arrival.priority]
    return {
        "urgent_ttft_s_p50": _ttft_s(urgent, 0.5),
        "urgent_ttft_s_p99": _ttft_s(urgent, 0.99),
        "others_ttft_s_p50": _ttft_s(others, 0.5),
        "others_ttft_s_p99": _ttft_s(others, 0.99),
        "longest_wait_s": max((outcome.ttft_s for outcome in run.ended), default=math.nan),
        "num_not_ended": len(run.outcomes) - len(run.ended),
    }


def _ttft_s(outcomes: Sequence[Outcome], fraction: float) -> float:
    return percentile([outcome.ttft_s for outcome in outcomes], fraction)
