"""Steps as a scheduler recorded them, and what they came to."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from stepserve_bench.measure.recorded import Doing, read_steps
from stepserve_bench.measure.steps import mean_period_ms, step_figures


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


def test_what_another_scheduler_began_has_a_name(tmp_path: Path) -> None:
    held = {"sequence_id": 7, "job_id": "a", "index": 0, "num_tokens": 9, "num_computed": 8}
    gone = held | {"sequence_id": 8, "job_id": "b"}
    lines = [
        {"kind": "adopted", "time_s": 0, "sequences": [held, gone]},
        {"kind": "reported", "step": 4, "duration_us": 1, "finished": [], "num_free_blocks": 9},
        {"kind": "sent", "step": 5, "time_s": 1, "admitted": [], "rows": [[7, 1]], "released": [8]},
    ]
    (tmp_path / "lane.jsonl").write_text("\n".join(map(json.dumps, lines)))
    [step] = read_steps(tmp_path)
    assert step.lengths == {("a", 0): 9}
    assert step.doing[("b", 0)] is Doing.PREEMPTED
