"""Three times the load that can be served, with deadlines: what is refused, and who is let in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from stepserve_bench.measure.figures import percentile
from stepserve_bench.policies.trial import Trial
from stepserve_bench.report.targets import at_most
from stepserve_bench.workloads.outcome import Arrival, Outcome

CALM, OVERLOAD = 0.9, 3.0
# Before it, a load that keeps some jobs waiting: a service that has just been started knows no
# pace, and refuses nobody.
BEFORE, BEFORE_SHARE = 1.2, 1 / 2
TARGET = 1.5
# A job is to begin within so many times the p99 of the calm load, and then has as long as any.
WAIT_SHARE = 1.35
# Every output is as long, so that the service knows how long one takes, as its client does.
OUTPUT_TOKENS = 64


def run(trial: Trial, capacity: float, duration_s: float) -> dict[str, Any]:
    """Return the p99 time to first token of those let in at three times the capacity.

    Beside that at 0.9 times the capacity, without deadlines. One that was let in and ended
    without a token counts as one that waited until its deadline.
    """
    calm = trial.offered(_equal(trial.poisson(CALM * capacity, duration_s, "calm"))).ended
    calm_s = percentile([outcome.ttft_s for outcome in calm], 0.99)
    running_s = percentile([outcome.latency_s - outcome.ttft_s for outcome in calm], 0.95)
    deadline_s = WAIT_SHARE * calm_s + running_s
    begin_s = BEFORE_SHARE * duration_s
    later = trial.poisson(OVERLOAD * capacity, duration_s, "overload")
    arrivals = [
        *_equal(trial.poisson(BEFORE * capacity, begin_s, "before"), deadline_s),
        *_equal([replace(a, at_s=a.at_s + begin_s) for a in later], deadline_s),
    ]
    outcomes = [o for o in trial.offered(arrivals).outcomes if o.arrival.at_s >= begin_s]
    admitted = [outcome for outcome in outcomes if not outcome.is_refused]
    busy_s = percentile([_ttft_s(outcome) for outcome in admitted], 0.99)
    num_lost = sum(not outcome.has_begun for outcome in admitted)
    return {
        "what": "p99 time to first token of jobs let in at 3 times the capacity, over that at 0.9 "
        f"times; {len(outcomes) - len(admitted)} of {len(outcomes)} refused",
        **at_most(busy_s / calm_s, TARGET, f"{num_lost} were let in and got no token in time"),
        "ttft_s_p99_calm": calm_s,
        "ttft_s_p99": busy_s,
        "ttft_s_p99_begun": percentile([o.ttft_s for o in admitted if o.has_begun], 0.99),
        "deadline_s": deadline_s,
        "requests_per_s": capacity,
        "num_jobs": len(outcomes),
        "num_refused": len(outcomes) - len(admitted),
        "num_without_token": num_lost,
        "num_in_time": sum(outcome.has_ended for outcome in admitted),
        "in_time_per_s": sum(outcome.has_ended for outcome in admitted) / duration_s,
    }


def _equal(arrivals: Sequence[Arrival], deadline_s: float = 0.0) -> list[Arrival]:
    return [
        replace(arrival, job=replace(arrival.job, max_tokens=OUTPUT_TOKENS), deadline_s=deadline_s)
        for arrival in arrivals
    ]


def _ttft_s(outcome: Outcome) -> float:
    return outcome.ttft_s if outcome.has_begun else outcome.arrival.deadline_s
