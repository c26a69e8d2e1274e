"""``stepserve bench gpu`` where there is no GPU: all of it runs, on tiny shapes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from stepserve.cli import parse
from stepserve_bench.gpu import floors
from stepserve_bench.gpu.case import Case, Outputs
from stepserve_bench.gpu.child import forked_map, rows_of
from stepserve_bench.gpu.driven import Model, Rows, limits_for
from stepserve_bench.gpu.floors import Ceilings
from stepserve_bench.gpu.geometry import QWEN3_06B, QWEN3_8B, TINY
from stepserve_bench.gpu.loads import nano_load
from stepserve_bench.gpu.lone import LoneRun
from stepserve_bench.gpu.report import report, summary
from stepserve_bench.gpu.results import Results
from stepserve_bench.gpu.service import up_flags
from stepserve_bench.gpu.setup import Row, Setup
from stepserve_bench.gpu.sweep import table_entry
from stepserve_bench.gpu.trials import Trial, best_overall
from worker_svc.kernels import select
from worker_svc.kernels.attention_tiles import ChunkTile, DecodeTile, Tiles


def bench(out: Path, *flags: str) -> tuple[dict[str, Any], str]:
    """Run the command in a process of its own, as it forks others; its file and its last line."""
    command = [sys.executable, "-m", "stepserve.cli", "bench", "gpu", "--device=cpu", "--quick"]
    done = subprocess.run(
        [*command, f"--out={out}", *flags],
        env={**os.environ, "STEPSERVE_REDIS_URL": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(out.read_text())
    return found, done.stdout.splitlines()[-1]


def rows(found: dict[str, Any], section: str) -> list[Row]:
    return list(found["sections"][section]["rows"])


def test_kernels_steps_and_a_load(tmp_path: Path) -> None:
    sections = "kernels,sweep,attention,sampling,steps,nano,8b"
    limits = "--limits=kernels=240,nano=240"
    found, last = bench(tmp_path / "deep" / "gpu.json", f"--sections={sections}", limits)
    assert list(found["sections"]) == ["card", *sections.split(",")]
    told = json.loads(last)
    assert told["problems"] == []
    assert told["figures"] == summary(found)
    for row in rows(found, "kernels"):
        assert row["cases"] > 0
        assert row["worst_error"] <= row["allowed"]
    compiled, *timed = rows(found, "steps")
    assert compiled["failed"] == 0
    for row in (*rows(found, "attention"), *rows(found, "sampling"), *timed):
        assert 0 < row["share"] <= 1
    _, load, stream = rows(found, "nano")
    assert load["output_tok_per_s"] > 0
    assert 0 <= load["idle_share"] < 1
    assert stream["ms_per_token"] > 0
    assert all("skipped" in row for name in ("sweep", "8b") for row in rows(found, name))
    page = (tmp_path / "deep" / "gpu.md").read_text()
    assert page == report(found)
    assert all(f"## {section} (" in page for section in sections.split(","))


@pytest.mark.long
def test_stream_and_oracle(tmp_path: Path) -> None:
    found, _ = bench(tmp_path / "gpu.json", "--sections=stream,oracle")
    assert rows(found, "stream")[-1]["ms_per_token"] > 0
    [family] = rows(found, "oracle")
    assert family["tokens"] > 0
    assert family["wrong"] == 0


@pytest.mark.parametrize(
    ("flag", "problem"),
    [("--sections=kernels,tea", "no section 'tea'"), ("--limits=steps:4", "SECTION=SECONDS")],
)
def test_refuses(flag: str, problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["bench", "gpu", flag])
    assert ended.value.code == 2
    assert problem in capsys.readouterr().err


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
    first, last = rows(found, "steps")
    assert first == {"what": "first"}
    assert last["error"] == error
    assert results.problems == [f"steps: steps: error: {error}"]


def _square(number: int) -> int:
    return number * number


def test_forked_map() -> None:
    assert sorted(forked_map(_square, range(5), 2, 60.0)) == [0, 1, 4, 9, 16]
    with pytest.raises(TimeoutError):
        list(forked_map(time.sleep, [60.0], 1, 0.1))


def test_models_of_one_shape_share_no_file(tmp_path: Path) -> None:
    """They are made in processes side by side, where one would read what another half wrote."""
    setup = Setup("cpu", "torch", True, (), tmp_path)
    rows_of_one = Rows(((4, 4),))
    Model(TINY, limits_for(TINY, [rows_of_one], 4), setup)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("shifts", "fault"),
    [
        ((0.0, 0.0), ""),
        ((0.5, 0.5), "error 5.00e-01, 1e-03 is allowed"),
        ((float("nan"), 0.0), "error inf, 1e-03 is allowed"),
        ((0.0, 1e-4), "other bits the second time"),
    ],
)
def test_a_wrong_kernel_is_a_fault(shifts: tuple[float, float], fault: str) -> None:
    coming = iter(shifts)

    def compute(*_: Any) -> Outputs:
        wanted = torch.ones(4)
        return [wanted + next(coming)], [wanted]

    kernels = select("torch", "cpu")
    case = Case("silu_mul", "four", 1e-3, compute)
    assert case.finding(kernels, kernels, torch.device("cpu")).fault == fault


def test_floors() -> None:
    """The numbers that the two runs are known by."""
    card = Ceilings(4.3e12, 790e12)
    load = nano_load(256, (100, 1024), QWEN3_06B.vocab_size)
    assert sum(load.outputs) == 133_966
    assert floors.step_us(QWEN3_06B, [(1, 600)], card) == pytest.approx(293, rel=0.02)
    assert floors.step_us(QWEN3_8B, [(1, 1024)] * 256, card) == pytest.approx(12_510, rel=0.02)
    run_s = floors.run_s(QWEN3_8B, [(1024, 1024)] * 256, 8192, card)
    assert run_s == pytest.approx(23.5, rel=0.1)


def test_a_lone_run_excuses_near_ties_only() -> None:
    run = LoneRun([4, 5, 6], [0.5, 1e-6, 0.5])
    assert run.difference([4, 5, 6]) == ""
    assert run.difference([4, 7, 8]) == ""
    assert "token 0 is 9, alone 4" in run.difference([9, 5, 6])
    assert "token 2" in run.difference([4, 5, 7])
    assert "2 tokens, alone 3" in run.difference([4, 5])


def test_the_best_tile_loses_least_over_all_shapes() -> None:
    fast, even, slow, part = (Trial("decode", DecodeTile(keys, 2, 3)) for keys in (16, 32, 64, 128))
    timed = {
        "large": {fast: 100.0, even: 110.0, slow: 400.0, part: 90.0},
        "small": {fast: 20.0, even: 11.0, slow: 10.0},
        "late": {},
    }
    best, losses = best_overall(timed)
    assert best == even
    assert losses == {"large": pytest.approx(110 / 90), "small": pytest.approx(1.1)}
    with pytest.raises(ValueError, match="no tile was timed for every shape"):
        best_overall({"large": {fast: 1.0}, "small": {slow: 1.0}})


def test_the_table_entry_can_be_read_as_it_is_printed() -> None:
    chosen = {
        "chunk": Trial("chunk", ChunkTile(128, 64, 8, 3, True)),
        "decode": Trial("decode", DecodeTile(64, 2, 3)),
    }
    names = {"Tiles": Tiles, "ChunkTile": ChunkTile, "DecodeTile": DecodeTile}
    entry = eval(f"{{{table_entry('A Card', chosen)}}}", names)
    tiles = Tiles(ChunkTile(128, 64, 8, 3, True), DecodeTile(64, 2, 3))
    assert entry == {"A Card": {(2, 128): tiles}}


def test_more_flags_for_up() -> None:
    flags = ["--max-steps-in-flight=3", "--no-cuda-graphs", "--x"]
    assert up_flags(flags) == {"max_steps_in_flight": "3", "cuda_graphs": False, "x": True}
