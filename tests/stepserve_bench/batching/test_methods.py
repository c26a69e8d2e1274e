"""Systems by name, what is said of them, and the aims."""

from __future__ import annotations

import pytest

from stepserve.protocol.errors import InvalidRequest
from stepserve_bench.batching.aims import aims
from stepserve_bench.batching.command import same_outputs, whole_prompts
from stepserve_bench.batching.methods import (
    BASELINE,
    DEFAULT,
    PADDED,
    PADDED_SPLIT,
    PAGED,
    STATIC_PAGED,
    Budgets,
    parse_methods,
)
from stepserve_bench.measure.service_run import ServiceRun
from stepserve_bench.report.targets import in_words
from stepserve_bench.workloads.jobs import BenchJob
from stepserve_bench.workloads.outcome import Arrival, JobTimes, Outcome


def test_names_go_both_ways() -> None:
    assert [system.name for system in parse_methods(DEFAULT)] == DEFAULT.split(",")
    whole, split = (parse_methods(PAGED + suffix)[0] for suffix in ("", "+split-fuse"))
    [padded] = parse_methods(PADDED_SPLIT)
    budgets = Budgets(whole=500, split_fuse=20, padded_split_fuse=9)
    tokens = [system.flags(budgets)["max_step_tokens"] for system in (whole, split, padded)]
    assert tokens == [500, 20, 9]


@pytest.mark.parametrize("name", ["", "static", "paged", "dynamic+paged", "static+paged+x"])
def test_what_is_no_system_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="systems"):
        parse_methods(name)


def test_no_prompt_is_split_by_a_whole_budget() -> None:
    jobs = [BenchJob([10] * n, 1) for n in (3, 9, 5, 1)]
    assert whole_prompts(jobs, 2) == 9 + 5 + 2


def test_aims() -> None:
    figures = {
        name: {"requests_per_s": speed, "num_steps": steps}
        for name, speed, steps in (
            (BASELINE, 2.0, 30), (STATIC_PAGED, 3.0, 30), (PADDED, 5.0, 10), (PAGED, 6.0, 10)
        )
    }  # fmt: skip
    found = aims(figures, 3.0, {PAGED: 5.4, PADDED: 5.1})
    assert found[f"{PAGED} over {BASELINE}"] == {"value": 3.0, "at_least": 2.3, "is_met": True}
    assert found[f"{PAGED} over {PADDED}"]["value"] == pytest.approx(1.2)
    time, steps = (
        found[f"{PAGED} over {STATIC_PAGED} in {unit}, as a share of the bound"]
        for unit in ("requests/s", "steps")
    )
    assert in_words(time) == "0.67 (target: at least 0.85, missed)"
    assert in_words(steps) == "1.00 (target: at least 0.85, met)"
    error = found["largest error of the simulated requests/s"]
    assert in_words(error) == "0.10 (target: at most 0.15, met)"
    assert aims({PAGED: {"requests_per_s": 6}}, 3.0, {}) == {}


def test_paged_is_judged_beside_the_faster_rectangle_and_told_what_limits_it() -> None:
    figures = {
        name: {
            "requests_per_s": speed,
            "num_steps": steps,
            "rows_per_step": 120 / steps,
            "step_period_ms_mean": 1e3 * 8 / speed / steps,
            "padded_share": share,
        }
        for name, speed, steps, share in (
            (PADDED, 2.0, 10, 0.75), (PADDED_SPLIT, 5.0, 12, 0.25), (PAGED, 6.0, 10, 0.0)
        )
    }  # fmt: skip
    [(name, found)] = aims(figures, 3.0, {}).items()
    assert name == f"{PAGED} over {PADDED_SPLIT}"
    assert found["value"] == pytest.approx(1.2)
    assert found["limit"] == (
        f"{PADDED_SPLIT} takes 1.20 times the steps of {PAGED}, but a step of {PAGED} takes 1.00 "
        "times as long: 133.33 ms for 12.0 rows (0% padding) against 133.33 ms for 10.0 rows "
        "(25% padding)"
    )


def test_outputs_are_compared_with_the_first() -> None:
    def run(*outputs: list[int]) -> ServiceRun:
        arrival = Arrival(0.0, BenchJob([10], 2))
        return ServiceRun([Outcome(arrival, JobTimes(0.0), "", o) for o in outputs], [], 0)

    runs = {"a": run([1, 2], [3, 4]), "b": run([1, 2], [3, 5])}
    assert same_outputs(runs) == {"a": "2 of 2", "b": "1 of 2"}
