"""What is kept of the records of a run."""

from __future__ import annotations

import json
from pathlib import Path

from stepserve_bench.batching.calibration import Calibration


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
