"""``stepserve bench gpu`` where there is no GPU: all of it runs, on tiny shapes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stepserve.cli import parse
from stepserve_bench.gpu.report import report, summary
from stepserve_bench.gpu.setup import Row


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


def check_told(found: dict[str, Any], last: str, sections: list[str], page: str) -> None:
    """What is printed last, and the page, say what was found in each section."""
    assert list(found["sections"]) == ["card", *sections]
    told = json.loads(last)
    assert told["problems"] == []
    assert told["figures"] == summary(found)
    assert page == report(found)
    assert all(f"## {section} (" in page for section in sections)


def test_kernels(tmp_path: Path) -> None:
    sections = ["kernels", "attention", "sampling"]
    out = tmp_path / "deep" / "gpu.json"
    found, last = bench(out, f"--sections={','.join(sections)}", "--limits=kernels=240")
    check_told(found, last, sections, out.with_suffix(".md").read_text())
    for row in rows(found, "kernels"):
        assert row["cases"] > 0
        assert row["worst_error"] <= row["allowed"]
    for row in (*rows(found, "attention"), *rows(found, "sampling")):
        assert 0 < row["share"] <= 1


@pytest.mark.long
def test_steps_and_what_needs_a_gpu(tmp_path: Path) -> None:
    sections, out = ["sweep", "steps", "8b", "ranks"], tmp_path / "gpu.json"
    found, last = bench(out, f"--sections={','.join(sections)}")
    check_told(found, last, sections, out.with_suffix(".md").read_text())
    compiled, *timed = rows(found, "steps")
    assert compiled["failed"] == 0
    for row in timed:
        assert 0 < row["share"] <= 1
    assert all("skipped" in row for name in ("sweep", "8b", "ranks") for row in rows(found, name))


@pytest.mark.long
def test_load_stream_and_oracle(tmp_path: Path) -> None:
    found, _ = bench(tmp_path / "gpu.json", "--sections=nano,stream,oracle")
    _, load, stream = rows(found, "nano")
    assert load["output_tok_per_s"] > 0
    assert 0 <= load["idle_share"] < 1
    assert stream["ms_per_token"] > 0
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
