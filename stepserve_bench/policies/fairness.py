"""One tenant sends ten times its share: what the others notice of it under ``fair``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from stepserve_bench.measure.figures import percentile
from stepserve_bench.measure.service_run import ServiceRun
from stepserve_bench.measure.steps import step_figures
from stepserve_bench.policies.trial import Trial
from stepserve_bench.report.targets import at_most
from stepserve_bench.workloads.outcome import Arrival

GREEDY, FACTOR = "greedy", 10.0
OTHERS = ("one", "two", "three")
# The others send a little less than their shares, so that a queue of theirs has an end.
OTHERS_LOAD = 0.8
TARGET = 1.3


def run(trial: Trial, capacity: float, duration_s: float) -> dict[str, Any]:
    """Return the others' p99 latencies while one tenant sends its share, and ten times that.

    A share is one part in as many as there are tenants of the capacity.
    """
    fair_rate = capacity / (len(OTHERS) + 1)
    others = [
        replace(arrival, tenant=tenant)
        for tenant in OTHERS
        for arrival in trial.poisson(OTHERS_LOAD * fair_rate, duration_s, f"fair {tenant}")
    ]
    figures = {}
    for name, factor in (("its_share", 1.0), ("greedy", FACTOR)):
        greedy = [
            replace(arrival, tenant=GREEDY)
            for arrival in trial.poisson(factor * fair_rate, duration_s, f"fair {name}")
        ]
        arrivals = sorted([*others, *greedy], key=lambda arrival: arrival.at_s)
        run = trial.offered(arrivals, _is_other, policy="fair")
        figures[name] = _figures(run, trial.bed.batch_size)
    greedy_run, its_share = figures["greedy"], figures["its_share"]
    ratio = greedy_run["others_latency_s_p99"] / its_share["others_latency_s_p99"]
    return {
        "what": "the others' p99 latency, a tenant at ten times its share over one at its share",
        **at_most(ratio, TARGET, _limit(its_share, greedy_run)),
        "also": "the others' p99 time to first token "
        f"{its_share['others_ttft_s_p99']:.2f} s, then {greedy_run['others_ttft_s_p99']:.2f} s; "
        f"latency {its_share['others_latency_s_p99']:.2f} s, then "
        f"{greedy_run['others_latency_s_p99']:.2f} s",
        "share_requests_per_s": fair_rate,
        **figures,
    }


def _is_other(arrival: Arrival) -> bool:
    return arrival.tenant != GREEDY


def _limit(its_share: dict[str, float], greedy: dict[str, float]) -> str:
    """Return what of the ratio is waiting for a place and what is the place's own speed."""
    return (
        f"with the greedy tenant a step has {greedy['rows_per_step']:.1f} rows and takes "
        f"{greedy['step_ms_mean']:.2f} ms, without {its_share['rows_per_step']:.1f} and "
        f"{its_share['step_ms_mean']:.2f} ms; the p99 wait for a first token becomes "
        f"{greedy['others_ttft_s_p99'] - its_share['others_ttft_s_p99']:.2f} s longer"
    )


def _figures(run: ServiceRun, num_places: int) -> dict[str, float]:
    others = [outcome for outcome in run.ended if _is_other(outcome.arrival)]
    greedy = [outcome for outcome in run.ended if not _is_other(outcome.arrival)]
    return {
        "others_latency_s_p50": percentile([o.latency_s for o in others], 0.5),
        "others_latency_s_p99": percentile([o.latency_s for o in others], 0.99),
        "others_ttft_s_p99": percentile([o.ttft_s for o in others], 0.99),
        "greedy_latency_s_p50": percentile([o.latency_s for o in greedy], 0.5),
        "num_others": len(others),
        "num_greedy": len(greedy),
        "num_greedy_left": len(run.outcomes) - len(run.ended),
        **_steps(run, num_places),
    }


def _steps(run: ServiceRun, num_places: int) -> dict[str, float]:
    found = step_figures(run.steps, num_places)
    return {name: found[name] for name in ("rows_per_step", "step_ms_mean", "step_ms_p50")}
