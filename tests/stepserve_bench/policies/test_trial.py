"""How many jobs a second a service can end."""

from __future__ import annotations

import pytest

from stepserve_bench.measure.service_run import ServiceRun
from stepserve_bench.policies.trial import capacity
from stepserve_bench.workloads.jobs import BenchJob
from stepserve_bench.workloads.outcome import Arrival, JobTimes, Outcome


def outcome(submitted_s: float, *token_times_s: float) -> Outcome:
    job = BenchJob([10], len(token_times_s))
    times = JobTimes(submitted_s, list(token_times_s))
    return Outcome(Arrival(0.0, job), times, finish_reason="length")


def test_capacity_counts_until_the_last_job_begins() -> None:
    outcomes = [outcome(10.0, 11.0, 12.0, 13.0), outcome(10.0, 14.0, 20.0, 30.0)]
    # Four of the tokens came by 14.0, and a job has three.
    assert capacity(ServiceRun(outcomes, [], 0)) == pytest.approx(4 / 4.0 / 3)
