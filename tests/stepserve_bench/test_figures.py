"""The figures' formulas on data small enough to be worked out by hand."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest

from stepserve_bench.batching.calibration import Calibration
from stepserve_bench.measure.figures import figures, percentile, ratios
from stepserve_bench.measure.recorded import Doing, read_steps
from stepserve_bench.measure.service_run import ServiceRun
from stepserve_bench.measure.steps import mean_period_ms, step_figures
from stepserve_bench.policies.trial import capacity
from stepserve_bench.workloads.jobs import BenchJob, random_jobs, static_bound
from stepserve_bench.workloads.lengths import FixedLengths
from stepserve_bench.workloads.outcome import Arrival, JobTimes, Outcome


def outcome(submitted_s: float, *token_times_s: float) -> Outcome:
    job = BenchJob([10], len(token_times_s))
    times = JobTimes(submitted_s, list(token_times_s))
    return Outcome(Arrival(0.0, job), times, finish_reason="length")


def test_percentile_is_the_nearest_rank() -> None:
    assert percentile([4, 1, 3, 2], 0.5) == 2
    assert percentile([1, 2], 0.5) == 1
    assert percentile(list(range(1, 101)), 0.99) == 99
    assert percentile(list(range(1, 102)), 0.99) == 100
    assert percentile([7], 0.01) == percentile([7], 1.0) == 7
    assert math.isnan(percentile([], 0.5))


def test_figures_of_two_jobs() -> None:
    found = figures([JobTimes(0.0, [1.0, 1.5, 4.0]), JobTimes(1.0, [3.0])], 3 * 2**20)
    assert found["requests_per_s"] == 2 / 4.0
    assert found["output_tokens_per_s"] == 4 / 4.0
    assert (found["ttft_ms_p50"], found["ttft_ms_p99"]) == (1000.0, 2000.0)
    assert (found["itl_ms_p50"], found["itl_ms_p99"]) == (500.0, 2500.0)
    assert found["latency_s_mean"] == 3.0
    assert (found["latency_s_p50"], found["latency_s_p90"], found["latency_s_p99"]) == (2, 4, 4)
    assert found["peak_memory_mib"] == 3.0


def test_ratios_leave_out_what_is_zero_or_missing() -> None:
    ours = {"a": 3.0, "b": 1.0, "c": 1.0, "padded_share": 0.5}
    assert ratios(ours, {"a": 2.0, "b": 0.0, "padded_share": 0.6}) == {"a": 1.5}


def test_bound_of_static_batches() -> None:
    # Batches of (5, 8, 3) and (6): they last 8 and 6 steps, a job 5.5 on average.
    assert static_bound([5, 8, 3, 6], 3) == 7 / 5.5
    assert static_bound([4, 4, 4], 2) == 1.0


def test_capacity_counts_until_the_last_job_begins() -> None:
    outcomes = [outcome(10.0, 11.0, 12.0, 13.0), outcome(10.0, 14.0, 20.0, 30.0)]
    # Four of the tokens came by 14.0, and a job has three.
    assert capacity(ServiceRun(outcomes, [], 0)) == pytest.approx(4 / 4.0 / 3)


def test_jobs_are_the_same_for_the_same_seed() -> None:
    jobs = [random_jobs(3, 50, FixedLengths(4, 2), random.Random(seed)) for seed in (1, 1, 2)]
    assert jobs[0] == jobs[1] != jobs[2]
    assert all(len(job.prompt_token_ids) == 4 and job.max_tokens == 2 for job in jobs[0])
    assert min(token for job in jobs[0] for token in job.prompt_token_ids) >= 10


def record(directory: Path) -> None:
    """Write a run of two jobs: a prompt in two chunks beside a decode, then a step too many."""
    admitted = [
        {"sequence_id": i, "job_id": name, "index": 0, "num_prompt_tokens": n, "num_tokens": n}
        for i, name, n in ((1, "a", 1), (2, "b", 5))
    ]
    sent = [
        {"step": 1, "admitted": admitted, "rows": [[1, 1], [2, 3]], "released": []},
        {"step": 2, "admitted": [], "rows": [[1, 1], [2, 2]], "released": []},
        # Planned before the end of a was known: the worker skips its row.
        {"step": 3, "admitted": [], "rows": [[1, 1], [2, 1]], "released": []},
    ]
    reported = [
        {"step": 1, "duration_us": 4000, "finished": [], "num_positions": 6, "num_context": 6},
        {"step": 2, "duration_us": 1000, "finished": [1], "num_positions": 4, "num_context": 10},
        {"step": 3, "duration_us": 2000, "finished": [2], "num_positions": 2, "num_context": 6},
    ]
    lines = [
        *({"kind": "sent", "time_s": line["step"], **line} for line in sent),
        *({"kind": "reported", "num_free_blocks": 9, **line} for line in reported),
    ]
    (directory / "lane.jsonl").write_text("\n".join(map(json.dumps, lines)))


def test_steps_as_recorded(tmp_path: Path) -> None:
    record(tmp_path)
    first, second, third = read_steps(tmp_path)
    a, b = ("a", 0), ("b", 0)
    assert first.doing == {a: Doing.PREFILLS, b: Doing.PREFILLS}
    assert second.doing == {a: Doing.LEAVES, b: Doing.PREFILLS}
    assert third.doing == {b: Doing.LEAVES}
    assert (first.lengths, second.lengths, third.lengths) == ({a: 1, b: 3}, {a: 2, b: 5}, {b: 6})
    assert [step.num_tokens for step in (first, second, third)] == [4, 3, 1]


def test_figures_of_steps(tmp_path: Path) -> None:
    record(tmp_path)
    found = step_figures(read_steps(tmp_path), num_places=4)
    assert found["num_steps"] == 3
    assert found["rows_per_step"] == pytest.approx(5 / 3)
    assert found["occupancy"] == pytest.approx(5 / 12)
    assert found["padded_share"] == pytest.approx(1 - 8 / 12)
    assert found["context_padded_share"] == pytest.approx(1 - (4 + 7 + 6) / 22)
    assert (found["step_ms_p50"], found["step_ms_p99"]) == (2.0, 4.0)
    assert step_figures([], 4) == {}
    # Sent at 1, 2 and 3 s.
    assert mean_period_ms(read_steps(tmp_path)) == pytest.approx(1000)
    assert math.isnan(mean_period_ms([]))


def test_calibration_is_what_was_recorded_before_and_after(tmp_path: Path) -> None:
    records, kept = tmp_path / "records", tmp_path / "kept"
    records.mkdir()
    lines = [json.dumps({"step": step, "time_s": float(step)}) + "\n" for step in range(6)]
    (records / "lane.jsonl").write_text("".join(lines))
    Calibration([], [], [2.0, 4.0]).keep_records(records, kept)
    parts = {path.name: path.read_text() for path in kept.iterdir()}
    assert parts == {
        "lane before.jsonl": "".join(lines[:2]),
        "lane after.jsonl": "".join(lines[4:]),
    }
