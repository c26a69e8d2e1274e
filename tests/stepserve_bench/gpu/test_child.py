"""A section in a process of its own."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stepserve_bench.gpu.child import forked_map, rows_of
from stepserve_bench.gpu.results import Results
from stepserve_bench.gpu.setup import Row, Setup


class OneRow(Setup):
    """Whose time is over when it has the first result."""

    results: Results

    @property
    def left_s(self) -> float:
        return -60.0 if self.results.rows("steps") else 60.0


def _dies(_: Setup) -> Iterator[Row]:
    yield {"what": "first"}
    os._exit(3)


def _fails(_: Setup) -> Iterator[Row]:
    yield {"what": "first"}
    raise ValueError("no tile\nat all")


def _hangs(_: Setup) -> Iterator[Row]:
    yield {"what": "first"}
    while True:
        time.sleep(60)


@pytest.mark.parametrize(
    ("section", "error"),
    [
        (_dies, "its process ended with status 3"),
        (_fails, "ValueError: no tile"),
        (_hangs, "out of time"),
    ],
)
def test_what_came_before_an_end_is_kept(section: Any, error: str, tmp_path: Path) -> None:
    results = Results(tmp_path / "gpu.json", {})
    results.begin("steps")
    kind = OneRow if section is _hangs else Setup
    OneRow.results = results
    deadline_s = time.monotonic() + 60.0
    setup = kind("cpu", "torch", True, (), tmp_path, deadline_s=deadline_s)
    for row in rows_of(section, setup):
        results.add("steps", {"what": "steps", **row})
    found = json.loads((tmp_path / "gpu.json").read_text())
    first, last = found["sections"]["steps"]["rows"]
    assert first == {"what": "first"}
    assert last["error"] == error
    assert results.problems == [f"steps: steps: error: {error}"]


def _square(number: int) -> int:
    return number * number


def test_forked_map() -> None:
    assert sorted(forked_map(_square, range(5), 2, 60.0)) == [0, 1, 4, 9, 16]
    with pytest.raises(TimeoutError):
        list(forked_map(time.sleep, [60.0], 1, 0.1))
