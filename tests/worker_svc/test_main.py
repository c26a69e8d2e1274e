"""``python -m worker_svc`` as a process: its ready line, its end, and its exit codes."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from stepserve.protocol import step_wire
from stepserve.protocol.errors import StepserveError
from stepserve.protocol.sampling import Sampling
from stepserve.protocol.step import Admission, Hello, StepCommand
from worker_svc.machine.address import check_address

TIMEOUT_S = 120.0
SMALL = ["--port=0", "--num-blocks=32", "--num-threads=1", "--kernels=torch", "--device=cpu"]

# Real weights of the wrong size: the first step after the warm-up fails inside torch.
BROKEN = """
import sys
from worker_svc import __main__, assembly
assemble = assembly.assemble
def assemble_broken(settings, incarnation):
    made = assemble(settings, incarnation)
    made.runner.executor.model._weights.embedding.resize_(0, 0)
    return made
assembly.assemble = assemble_broken
sys.exit(__main__.main())
"""


@contextmanager
def started(arguments: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "worker_svc", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)


def ready(process: subprocess.Popen[str]) -> dict[str, str]:
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], TIMEOUT_S)[0], "no ready line"
    word, *pairs = process.stdout.readline().split()
    assert word == "ready"
    return dict(pair.split("=") for pair in pairs)


def probe(address: str, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_it_is_ready_it_serves_and_a_signal_ends_it(small_checkpoint: Path) -> None:
    arguments = ["-m", "worker_svc", f"--model={small_checkpoint}", *SMALL]
    with started([*arguments, "--model-name=tiny", "--no-reflection"]) as process:
        line = ready(process)
        assert (line["model"], line["blocks"]) == ("tiny", "32")
        with grpc.insecure_channel(line["worker"]) as channel:
            stub = step_wire.WorkerStub(channel)  # type: ignore[no-untyped-call]
            info = step_wire.decode_info(stub.Describe(step_wire.describe_request(), timeout=20))
            assert (info.model, info.num_blocks, info.dtype) == ("tiny", 32, "float32")
            assert len(info.incarnation) == 32
            assert info.fingerprint
            next(stub.Steps(iter([step_wire.encode_lane_message(Hello(7, "lane-a"))]), timeout=20))
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
        assert process.stdout is not None
        assert process.stdout.read() == ""
        assert process.stderr is not None
        said = [
            line.partition(" INFO ")[2].partition(": ")[2]
            for line in process.stderr.read().splitlines()
        ]
    assert said == [
        f"worker {info.incarnation} holds tiny: float32 on cpu with torch kernels, "
        f"{info.fingerprint[:12]}",
        "32 blocks of 16 tokens, contexts up to 512, steps of up to 64 sequences and 2048 tokens",
        "driven by lane-a, epoch 7, reset False",
        "driven by nobody",
        f"worker {info.incarnation} ends: it was told to",
    ]


def test_a_broken_worker_dies(small_checkpoint: Path) -> None:
    arguments = ["-c", BROKEN, f"--model={small_checkpoint}", *SMALL, "--metrics-port=0"]
    with started(arguments) as process:
        line = ready(process)
        while probe(line["metrics"], "/readyz") != (200, "ok\n"):
            time.sleep(0.05)  # until its vitals have been looked at once
        assert (
            "stepserve:worker_step_duration_seconds_bucket" in probe(line["metrics"], "/metrics")[1]
        )
        with grpc.insecure_channel(line["worker"]) as channel:
            stub = step_wire.WorkerStub(channel)  # type: ignore[no-untyped-call]
            _lose_a_step(stub)
        assert process.wait(5) == 3, "its device is broken: another process may do better"
        assert process.stderr is not None
        errors = process.stderr.read().splitlines()
    failed = next(n for n, line in enumerate(errors) if line.endswith(": step 1 failed"))
    assert errors[failed + 1].startswith("Traceback")
    assert "ends: step 1 failed" in errors[-2]
    assert errors[-1].startswith("stepserve worker: step 1 failed: ")


def _lose_a_step(stub: step_wire.WorkerStub) -> None:
    incarnation = stub.Describe(step_wire.describe_request(), timeout=20).incarnation
    command = StepCommand(
        epoch=1,
        incarnation=incarnation,
        step=1,
        admissions=(Admission(1, "job", 0, (1, 2), 2, Sampling(max_tokens=1)),),
        row_sequence_ids=(1,),
        row_num_tokens=(2,),
        row_num_new_blocks=(1,),
        new_block_ids=(0,),
    )
    messages = [step_wire.encode_lane_message(value) for value in (Hello(1, "test"), command)]
    answers = stub.Steps(iter(messages), timeout=20)
    assert next(answers).WhichOneof("kind") == "hello"
    with pytest.raises(grpc.RpcError) as caught:
        next(answers)
    assert caught.value.code() is grpc.StatusCode.ABORTED, "it crashed in that step"


LOADING = """
import sys, time
from worker_svc import __main__, assembly
def assemble(settings, incarnation):
    print("loading", flush=True)
    time.sleep(600)
assembly.assemble = assemble
sys.exit(__main__.main())
"""


def test_a_signal_ends_it_while_it_loads_and_it_lives_meanwhile() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = ["-c", LOADING, "--model=unused", f"--metrics-port={port}", *SMALL]
    with started(arguments) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "loading\n"
        assert probe(f"127.0.0.1:{port}", "/livez") == (200, "ok\n")
        assert probe(f"127.0.0.1:{port}", "/readyz") == (503, "it starts\n")
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0


def test_a_taken_address_is_said_before_anything_is_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StepserveError, match=f"127.0.0.1:{port} can't be served on: Address"):
            check_address("127.0.0.1", port)
        result = run(f"--port={port}", "--model=there-is-no-such-model")
    check_address("127.0.0.1", port)
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"stepserve worker: 127.0.0.1:{port} can't be served on: Address")


def test_what_cannot_be_served_is_said_in_one_line(tmp_path: Path) -> None:
    result = run(f"--model={tmp_path}", *SMALL)
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"stepserve worker: {tmp_path}")


def test_wrong_flags_are_named_and_the_status_is_2() -> None:
    result = run("--model=x", "--port=70000", "--block-size=0")
    assert (result.returncode, result.stdout) == (2, "")
    line, _hint = result.stderr.splitlines()
    assert "--port: Input should be less than or equal to 65535" in line
    assert "--block-size: Input should be greater" in line
