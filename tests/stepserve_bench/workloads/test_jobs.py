"""The jobs that every system of a run gets."""

from __future__ import annotations

import random

from stepserve_bench.workloads.jobs import random_jobs, static_bound
from stepserve_bench.workloads.lengths import FixedLengths


def test_bound_of_static_batches() -> None:
    # Batches of (5, 8, 3) and (6): they last 8 and 6 steps, a job 5.5 on average.
    assert static_bound([5, 8, 3, 6], 3) == 7 / 5.5
    assert static_bound([4, 4, 4], 2) == 1.0


def test_jobs_are_the_same_for_the_same_seed() -> None:
    jobs = [random_jobs(3, 50, FixedLengths(4, 2), random.Random(seed)) for seed in (1, 1, 2)]
    assert jobs[0] == jobs[1] != jobs[2]
    assert all(len(job.prompt_token_ids) == 4 and job.max_tokens == 2 for job in jobs[0])
    assert min(token for job in jobs[0] for token in job.prompt_token_ids) >= 10
