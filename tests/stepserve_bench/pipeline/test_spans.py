from __future__ import annotations

from pathlib import Path

import pytest

from stepserve_bench.measure.recorded import RecordedStep
from stepserve_bench.measure.service_run import ServiceRun
from stepserve_bench.pipeline.picture import draw
from stepserve_bench.pipeline.spans import Span, idle_shares, read_stages
from stepserve_bench.pipeline.ways import FILLED, ONE_BATCH, ONE_STAGE, WAYS, Measured, lone_stage
from stepserve_bench.workloads.jobs import BenchJob
from stepserve_bench.workloads.outcome import Arrival, JobTimes, Outcome


def write(directory: Path, stage: int, *lines: str) -> None:
    worker = directory / "0"
    worker.mkdir(exist_ok=True)
    (worker / f"stage-{stage}-rank-0.jsonl").write_text("\n".join(lines))


def line(step: int, begin_us: int, end_us: int, rows: int) -> str:
    return (
        f'{{"step": {step}, "begin_us": {begin_us}, "end_us": {end_us}, '
        f'"rows": {rows}, "tokens": {rows}}}'
    )


def test_stages_are_read_as_they_were_written(tmp_path: Path) -> None:
    cut = line(3, 2_000_000, 3_000_000, 1)[:20]
    write(tmp_path, 10, line(1, 5, 6, 1), "")
    write(tmp_path, 2, line(1, 1_000_000, 2_000_000, 4), line(2, 2_000_000, 2_000_000, 0), cut)
    assert read_stages(tmp_path, 100.0) == [
        [Span(1, 101.0, 102.0, 4)],
        [Span(1, 100.000005, 100.000006, 1)],
    ]


def test_what_is_idle_between_two_moments() -> None:
    stages = [[Span(1, 0.0, 2.0, 1), Span(2, 3.0, 9.0, 1)], []]
    assert idle_shares(stages, 1.0, 5.0) == [pytest.approx(0.25), 1.0]


def run() -> ServiceRun:
    """Ten jobs that end one a second, each in a step of its own."""
    outcomes = [
        Outcome(Arrival(0.0, BenchJob([1], 1)), JobTimes(0.0, [float(end_s)]), "j", [5], "length")
        for end_s in range(1, 11)
    ]
    steps = [RecordedStep(i, float(i - 1), 500_000, row_tokens={("j", i): 1}) for i in range(1, 11)]
    return ServiceRun(outcomes, steps, 0)


def test_a_stage_alone_is_known_by_its_reports() -> None:
    measured = Measured(ONE_STAGE, run(), lone_stage(run()))
    assert measured.steady_s == (2.0, 10.0)
    assert measured.steady_requests_per_s == 1.0
    assert measured.idle_shares == [pytest.approx(0.5)]


def test_of_few_jobs_all_is_steady() -> None:
    few = ServiceRun(run().outcomes[:1], [], 0)
    assert Measured(ONE_STAGE, few, [[]]).steady_requests_per_s == 1.0


def test_each_way_is_a_setting_with_as_many_places_in_each_batch_in_flight() -> None:
    continuous, stages = {"batching": "continuous"}, {"pipeline_stages": 3}
    assert [way.flags(3, 24) for way in WAYS] == [
        {**continuous, "max_batch_size": 24, "target_batch_size": 24},
        {"batching": "static", **stages, "max_batch_size": 72},
        {**continuous, **stages, "max_batch_size": 24, "target_batch_size": 24},
        {**continuous, **stages, "max_batch_size": 72},
    ]


def test_the_picture_has_a_line_for_each_stage(tmp_path: Path) -> None:
    stages = [
        [Span(step, step / 2 + stage / 2, step / 2 + stage / 2 + 0.4, 7) for step in range(30)]
        for stage in range(2)
    ]
    path = tmp_path / "deeper" / "stages.svg"
    draw(path, [Measured(ONE_BATCH, run(), stages), Measured(FILLED, run(), stages)])
    assert path.read_text().count("stage 1") == 2
