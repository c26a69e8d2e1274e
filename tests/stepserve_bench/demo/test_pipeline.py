"""Six jobs through a pipeline: who is in which stage at which tick."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console

from stepserve_bench.demo.command import (
    NUM_STAGES,
    PIPELINED,
    play_pipeline,
    queue_without_workers,
)
from stepserve_bench.demo.pipeline import Pipeline, print_stages, write_stages
from stepserve_bench.measure.recorded import Doing, RecordedStep


def pipeline() -> Pipeline:
    """Job 1 needs two steps and job 2 one; job 3 enters when job 2 has left."""
    a, b, c = ("a", 0), ("b", 0), ("c", 0)
    steps = [
        RecordedStep(1, 0.0, doing={a: Doing.PREFILLS}, row_tokens={a: 3}),
        RecordedStep(2, 0.1, doing={b: Doing.LEAVES}, row_tokens={b: 2}),
        RecordedStep(3, 0.2, doing={a: Doing.LEAVES}, row_tokens={a: 1}),
        RecordedStep(4, 0.3, doing={c: Doing.LEAVES}, row_tokens={c: 1}),
    ]
    return Pipeline(steps, {a: 1, b: 2, c: 3}, 2)


def test_each_tick_in_words() -> None:
    assert list(pipeline().tell()) == [
        "Tick 0",
        "  stage 0: step 0, job 1 (job 1 enters)",
        "  stage 1: nothing",
        "Tick 1",
        "  stage 0: step 1, job 2 (job 2 enters)",
        "  stage 1: step 0, job 1",
        "Tick 2",
        "  stage 0: step 2, job 1",
        "  stage 1: step 1, job 2 (job 2 is done and leaves)",
        "Tick 3",
        "  stage 0: step 3, job 3 (job 3 enters)",
        "  stage 1: step 2, job 1 (job 1 is done and leaves)",
        "Tick 4",
        "  stage 0: nothing",
        "  stage 1: step 3, job 3 (job 3 is done and leaves)",
    ]


def test_the_pictures(tmp_path: Path) -> None:
    console = Console(record=True, width=100)
    print_stages(console, pipeline())
    lines = [line.rstrip() for line in console.export_text().splitlines()]
    assert lines == ["tick    0 1 2 3 4", "stage 0 1 2 1 3 -", "stage 1 - 1 2 1 3"]
    path = tmp_path / "deeper" / "pipeline.svg"
    write_stages(path, pipeline())
    assert path.read_text().count("<title>") == 8


@pytest.mark.long
def test_who_is_in_which_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STEPSERVE_REDIS_URL", raising=False)
    with queue_without_workers() as (redis_url, target):
        played = play_pipeline(redis_url, target)
    members = played.members()
    assert all(len(batch) <= 2 for batch in members), "a batch is larger than its share"
    for before, after in pairwise(members):
        assert not before & after, "a job is in two stages at once"
    counts = [sum(number in batch for batch in members) for number in range(1, 7)]
    assert counts == list(PIPELINED.outputs), "a step for each token"
    assert NUM_STAGES == 2
