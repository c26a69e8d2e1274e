"""Twice the load that can be served, a tenth of it urgent: priority beside fcfs."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bench.experiments.trial import Trial
from bench.load import Arrival, Outcome
from bench.measured import percentile
from bench.service_run import ServiceRun
from bench.targets import at_least

LOAD, URGENT_SHARE, URGENT = 2.0, 0.1, 10
TARGET = 5.0
# At this load the longest wait is as long as the load lasts; twice that leaves no doubt.
HEADROOM = 2.0


def run(trial: Trial, capacity: float, duration_s: float) -> dict[str, Any]:
    """Return the urgent jobs' times to first token under both policies."""
    arrivals = _arrivals(trial, LOAD * capacity, duration_s)
    weight = HEADROOM * duration_s / URGENT
    figures = {
        policy: _figures(trial.offered(arrivals, policy=policy, priority_weight=weight))
        for policy in ("fcfs", "priority")
    }
    ratio = figures["fcfs"]["urgent_ttft_s_p99"] / figures["priority"]["urgent_ttft_s_p99"]
    return {
        "what": "p99 time to first token of urgent jobs, fcfs over priority, at twice the capacity",
        **at_least(ratio, TARGET),
        "requests_per_s": LOAD * capacity,
        "num_not_ended": sum(int(found["num_not_ended"]) for found in figures.values()),
        "priority_weight": weight,
        "num_jobs": len(arrivals),
        "num_urgent": sum(arrival.priority == URGENT for arrival in arrivals),
        **figures,
    }


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
        "longest_wait_s": max(outcome.ttft_s for outcome in run.ended),
        "num_not_ended": len(run.outcomes) - len(run.ended),
    }


def _ttft_s(outcomes: Sequence[Outcome], share: float) -> float:
    return percentile([outcome.ttft_s for outcome in outcomes], share)
