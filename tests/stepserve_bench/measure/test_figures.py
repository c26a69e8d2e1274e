"""The jobs' figures on data small enough to be worked out by hand."""

from __future__ import annotations

import math

from stepserve_bench.measure.figures import figures, percentile, ratios
from stepserve_bench.workloads.outcome import JobTimes


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
