"""The service as users run it: ``stepserve up`` and its processes, killed and restarted."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from stepserve import Client, Request, SamplingParams, StructuredOutputs
from stepserve.local.serving import Served, serve
from tests.checkpoints import add_tokenizer, lone_check, make_checkpoint
from tests.e2e.oracle import OracleJob, Output, compare_all, jobs

DEADLINE_S = 120.0
FLAGS = {"num_threads": 1, "dtype": "float32"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("processes") / "llama"
    return add_tokenizer(make_checkpoint(directory, "llama"), 257)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition; fail after a minute or two."""
    end_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end_s, f"never: {what}"
        time.sleep(0.02)


def children(pid: int, module: str) -> list[int]:
    """Return the ids of the direct children that run ``module``."""
    return [
        child.pid for child in psutil.Process(pid).children() if module in " ".join(child.cmdline())
    ]


def descendants(pid: int) -> list[psutil.Process]:
    """Return all processes below this one."""
    return psutil.Process(pid).children(recursive=True)


def command_lines(pid: int) -> list[str]:
    """Return the arguments of all processes below this one; some may end meanwhile."""
    lines = []
    for process in descendants(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            lines.append(" ".join(process.cmdline()))
    return lines


def loads_torch(pid: int) -> bool:
    """Return whether torch's library is in a process's memory."""
    return "libtorch" in Path(f"/proc/{pid}/maps").read_text()


def start(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Start the command, with its outputs in pipes."""
    return subprocess.Popen(
        [sys.executable, "-m", "stepserve.cli", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def follow(client: Client, job_ids: list[str]) -> list[Output]:
    outputs = []
    for job_id in job_ids:
        output = Output()
        for event in client.attach(job_id):
            output.add(event)
        outputs.append(output)
    return outputs


def num_tokens(client: Client, job_id: str) -> int:
    return client.get(job_id).outputs[0].num_tokens


def wait_for_tokens(client: Client, job_id: str, least: int) -> None:
    wait_until(lambda: num_tokens(client, job_id) >= least, f"{least} tokens")


def slow_jobs() -> list[OracleJob]:
    """Jobs that are long enough to be killed in their middle."""
    return [OracleJob(job.prompt_token_ids, 300, ignore_eos=True) for job in jobs(5, 257, count=6)]


def kill_everything(served: Served) -> None:
    """SIGKILL the command and all below it, as a power cut would."""
    for process in (psutil.Process(served.process.pid), *descendants(served.process.pid)):
        process.kill()
    served.process.wait()


def stop_all(process: subprocess.Popen[str], signum: signal.Signals) -> tuple[int, str]:
    """Signal a command; return its status and stderr. Fail where it leaves a process behind."""
    below = descendants(process.pid)
    assert below, "it had nothing to stop"
    process.send_signal(signum)
    _, errors = process.communicate(timeout=30)
    assert [each for each in below if each.is_running()] == []
    return process.returncode, errors


def test_every_process_killed_and_started_again_goes_on(checkpoint: Path, tmp_path: Path) -> None:
    asked = slow_jobs()
    sampled = Request(
        prompt_token_ids=[1, 2, 3],
        sampling=SamplingParams(temperature=1.0, seed=99, max_tokens=300, ignore_eos=True),
    )
    items = {"type": "array", "items": {"type": "boolean"}, "minItems": 60, "maxItems": 60}
    structured = replace(
        sampled.sampling,
        ignore_eos=None,
        structured_outputs=StructuredOutputs(json=json.dumps(items)),
    )
    others = [sampled, replace(sampled, sampling=structured)]
    # Exact in float64 only: in float32 a draw that falls within rounding of two tokens' border
    # may go either way when what was decoded is computed again as a prompt.
    flags: dict[str, Any] = {**FLAGS, "data_dir": tmp_path / "data", "dtype": "float64"}
    with serve(checkpoint, **flags) as served, Client(served.target) as client:
        whole = [client.complete(each) for each in others]
        requests = [*(job.request() for job in asked), *others]
        job_ids = [client.submit(each) for each in requests]
        # Redis writes its log once a second: let it, so that there is output to go on from.
        wait_until(lambda: num_tokens(client, job_ids[-1]) >= 3, "tokens")
        kill_everything(served)
    with serve(checkpoint, **flags) as served, Client(served.target) as client:
        outputs = follow(client, job_ids)
    assert compare_all(outputs[: len(asked)], checkpoint, asked, "float64") == 0
    for again, before in zip(outputs[len(asked) :], whole, strict=True):
        assert tuple(again.token_ids) == before.outputs[0].token_ids


@pytest.mark.long  # that all of them are killed, one after the other, is seen in make test
@pytest.mark.parametrize("roles_apart", ["no", "yes"])
def test_a_killed_worker_and_a_killed_scheduler_lose_nothing(
    checkpoint: Path, roles_apart: str
) -> None:
    asked = slow_jobs()
    flags: dict[str, Any] = {**FLAGS, "roles_apart": roles_apart}
    with serve(checkpoint, **flags) as served, Client(served.target) as client:
        job_ids = [client.submit(job.request()) for job in asked]
        wait_for_tokens(client, job_ids[0], 10)
        [worker] = children(served.process.pid, "worker_svc")
        schedulers = children(served.process.pid, "scheduler_svc")
        assert len(schedulers) == {"no": 1, "yes": 2}[roles_apart]
        assert loads_torch(worker)
        assert not any(map(loads_torch, schedulers))
        os.kill(worker, signal.SIGKILL)
        wait_for_tokens(client, job_ids[0], 60)
        for number, scheduler in enumerate(schedulers):
            os.kill(scheduler, signal.SIGKILL)
            wait_for_tokens(client, job_ids[0], 100 + 30 * number)
        outputs = follow(client, job_ids)
        compare_all(outputs, checkpoint, asked, "float32")
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(30) == 0


@pytest.mark.long
@pytest.mark.parametrize("victim", ["worker_svc", "scheduler_svc"])
def test_prompts_are_scored_though_a_process_is_killed_meanwhile(
    checkpoint: Path, victim: str
) -> None:
    """By the worker that comes next from the beginning, by one that goes on from where it was."""
    asked = [OracleJob([*range(1, 201), 7 + i, 9], 4, ignore_eos=True) for i in range(8)]
    flags: dict[str, Any] = {**FLAGS, "max_step_tokens": 8}
    with serve(checkpoint, **flags) as served, Client(served.target) as client:
        job_ids = [client.submit(job.request()) for job in asked]
        wait_for_tokens(client, job_ids[0], 1)
        assert num_tokens(client, job_ids[-1]) == 0
        [process] = children(served.process.pid, victim)
        os.kill(process, signal.SIGKILL)
        compare_all(follow(client, job_ids), checkpoint, asked, "float32")


@pytest.mark.long  # each kernel's own tests in the interpreter are not
def test_the_triton_kernels_serve_in_the_interpreter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = add_tokenizer(make_checkpoint(tmp_path / "llama", "llama"), 257)
    asked = [OracleJob(job.prompt_token_ids[:9], 6, ignore_eos=True) for job in jobs(6, 257, 4)]
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with serve(checkpoint, **FLAGS, kernels="triton") as served, Client(served.target) as client:
        job_ids = [client.submit(job.request()) for job in asked]
        outputs = follow(client, job_ids)
    compare_all(outputs, checkpoint, asked, "float32")


def batch_command(checkpoint: Path, directory: Path, *flags: str) -> list[object]:
    """A batch in ``directory`` that starts its own service."""
    files = directory / "in.jsonl", directory / "out.jsonl"
    return ["batch", *files, f"--model={checkpoint}", "--num-threads=1", *flags]


ADVICE = "stepserve: interrupted; the same command goes on from here\n"


@pytest.mark.parametrize(
    ("signum", "status"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.long)],
)
def test_an_interrupted_batch_goes_on(
    checkpoint: Path, tmp_path: Path, redis_url: str, signum: signal.Signals, status: int
) -> None:
    lines: list[dict[str, Any]] = [
        {"prompt_token_ids": [i + 1, 7], "sampling": {"max_tokens": 200, "temperature": 0.0,
         "ignore_eos": True, "logprobs": 1}, "arrival_s": 0.01 * i} for i in range(6)
    ]  # fmt: skip
    lines[2]["sampling"]["temperature"] = -1
    lines.append({"prompt": "ab", "nonsense": 1})
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\nnot json\n")
    out, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"
    command = batch_command(checkpoint, tmp_path, "--max-batch-size=2")
    first = start(*command, f"--redis-url={redis_url}")
    wait_until(lambda: partial.exists() and partial.read_text().count("token_ids") >= 1, "a result")
    below = command_lines(first.pid)
    stopped, errors = stop_all(first, signum)
    assert stopped == status
    assert errors.endswith(ADVICE)
    assert not out.exists()
    assert not any(redis_url in line for line in below), "others can read it"
    assert not any("redis-server" in line for line in below), "another Redis was started"
    printed, _ = start(*command).communicate()
    figures = json.loads(printed.splitlines()[-1])
    assert (figures["jobs"], figures["failed"]) == (8, 3)
    assert figures["earlier"] >= 1
    results = [json.loads(line) for line in out.read_text().splitlines()]
    for i in (0, 1, 3, 4, 5):
        token_ids = results[i]["token_ids"]
        assert token_ids == lone_check(checkpoint, [i + 1, 7], token_ids, "float32").tokens
        assert results[i]["finish_reason"] == "length"
        assert len(results[i]["logprobs"]) == len(token_ids) == 200
        usage = {"prompt_tokens": 2, "completion_tokens": 200}
        assert results[i]["usage"].items() >= usage.items()
    assert results[2]["error"]["code"] == "INVALID_ARGUMENT"
    assert "temperature" in results[2]["error"]["message"]
    assert "nonsense" in results[6]["error"]["message"]
    assert "JSON" in results[7]["error"]["message"]
    assert list(tmp_path.glob(".out*")) == [], "the batch's own jobs are left behind"


@pytest.mark.long
def test_a_batch_is_interrupted_while_it_starts(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"prompt": "a"}')
    batch = start(*batch_command(checkpoint, tmp_path))
    wait_until(lambda: any("worker_svc" in line for line in command_lines(batch.pid)), "a start")
    status, told = stop_all(batch, signal.SIGINT)
    assert status == 130
    assert told.endswith(ADVICE), "after what it was at, where that took long"


@pytest.mark.long
def test_a_batch_of_its_own_uses_the_redis_that_is_named(
    redis_url: str, checkpoint: Path, tmp_path: Path
) -> None:
    named = checkpoint.rename(checkpoint.with_name("My Model"))
    (tmp_path / "in.jsonl").write_text('{"prompt": "a", "sampling": {"max_tokens": 3}}')
    batch = start(*batch_command(named, tmp_path, f"--redis-url={redis_url}"))
    seen: set[str] = set()
    wait_until(
        lambda: seen.update(command_lines(batch.pid)) or any("scheduler_svc" in s for s in seen),
        "a scheduler",
    )
    printed, _ = batch.communicate()
    named.rename(checkpoint)
    assert (batch.returncode, json.loads(printed)["failed"]) == (0, 0)
    assert json.loads((tmp_path / "out.jsonl").read_text())["usage"]["completion_tokens"] == 3
    assert not any(redis_url in line for line in seen), "others can read it"
    assert not any("redis-server" in line for line in seen), "another Redis was started"


def test_up_stops_at_once_while_it_starts(checkpoint: Path) -> None:
    up = start("up", f"--model={checkpoint}", "--port=0")
    wait_until(lambda: any("worker_svc" in line for line in command_lines(up.pid)), "a worker")
    stopped_s = time.monotonic()
    assert stop_all(up, signal.SIGTERM)[0] == 0
    assert time.monotonic() - stopped_s < 5


def test_up_says_that_its_port_is_taken(checkpoint: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        up = start("up", f"--model={checkpoint}", f"--port={port}")
        printed, errors = up.communicate(timeout=30)
    assert (up.returncode, printed) == (1, "")
    told = f"can't serve on 127.0.0.1:{port}: it is in use; stop what serves there, or"
    assert errors == f"stepserve: {told} choose another port\n"


@pytest.mark.long  # it is looked at before anything is started: tests/stepserve/commands
def test_a_bad_checkpoint_ends_up_with_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stepserve.cli", "up", f"--model={tmp_path}", "--port=0"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == f"stepserve: {tmp_path} is no checkpoint: it has no config.json\n"
