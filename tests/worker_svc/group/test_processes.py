"""Real ranks: what cannot be served, in one line through rank 0, and an end in order."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file, save_file

from tests.checkpoints import make_checkpoint
from tests.worker_svc.test_main import ready, run, started

STAGES = ["--port=0", "--num-blocks=32", "--num-threads=1", "--kernels=torch", "--device=cpu"]
WAIT_S = 60


def test_what_does_not_fit_together_is_said_before_anything_is_started(tmp_path: Path) -> None:
    result = run(f"--model={tmp_path}", *STAGES, "--pipeline-stages=2", "--nodes=2")
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("stepserve worker: --nodes: the machines need a --rendezvous")


@pytest.mark.long
def test_a_rank_that_cannot_load_says_why_through_rank_0(tmp_path: Path) -> None:
    """The last layer's tensor is no number: only the last stage reads it."""
    checkpoint = make_checkpoint(tmp_path / "bad", "llama")
    file = checkpoint / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.2.mlp.down_proj.weight"][0, 0] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})
    result = run(f"--model={checkpoint}", *STAGES, "--pipeline-stages=2")
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = [line for line in result.stderr.splitlines() if " INFO " not in line]
    assert line.startswith(f"stepserve worker: stage 1 of 2: {file}: tensor model.layers.2.mlp.")


@pytest.mark.long
def test_what_all_ranks_find_wrong_is_said_once(tmp_path: Path) -> None:
    result = run(f"--model={tmp_path}/nothing", *STAGES, "--pipeline-stages=2")
    assert (result.returncode, result.stdout) == (1, "")
    problems = [line for line in result.stderr.splitlines() if " INFO " not in line]
    assert len(problems) == 1
    assert problems[0].endswith(f"{tmp_path}/nothing: no such directory")


@pytest.mark.long
def test_a_machine_has_its_ranks_and_they_meet(small_checkpoint: Path, tmp_path: Path) -> None:
    """Two "machines" of one stage each; the second's launcher ends when the worker does."""
    with subprocess.Popen(
        [sys.executable, "-c", "import socket; s = socket.create_server(('127.0.0.1', 0));"
         "print(s.getsockname()[1])"], stdout=subprocess.PIPE, text=True) as free:  # fmt: skip
        assert free.stdout is not None
        port = int(free.stdout.read())
    common = ["-m", "worker_svc", f"--model={small_checkpoint}", *STAGES, "--pipeline-stages=2"]
    common += ["--nodes=2", f"--rendezvous=127.0.0.1:{port}", f"--record-stages-dir={tmp_path}"]
    with (
        started([*common, "--node-rank=0"]) as first,
        started([*common, "--node-rank=1"]) as second,
    ):
        assert ready(first)["blocks"] == "32"
        below = [child for p in (first, second) for child in psutil.Process(p.pid).children()]
        assert len(below) == 2
        first.send_signal(signal.SIGTERM)
        assert first.wait(WAIT_S) == 0
        assert second.wait(WAIT_S) == 0
        assert not any(child.is_running() for child in below)
    for stage in range(2):
        lines = (tmp_path / f"stage-{stage}-rank-0.jsonl").read_text().splitlines()
        spans = [json.loads(line) for line in lines]
        assert spans, "its first steps"
        assert all(span["begin_us"] <= span["end_us"] for span in spans)
