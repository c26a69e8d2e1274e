"""From settings to a worker: what it takes, what it tells of itself, what it refuses."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, LlamaConfig

from tests.worker_svc.conftest import Assemble
from worker_svc.cache_size import cache_bytes
from worker_svc.core.limits import Limits
from worker_svc.engine import Engine
from worker_svc.errors import WorkerUnavailable
from worker_svc.kernels import select
from worker_svc.runner import Runner
from worker_svc.settings import WorkerSettings
from worker_svc.step.layout import Flat, layout_for
from worker_svc.step.rows import RowTable
from worker_svc.step.synthetic import largest_step

SIZES = {
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "vocab_size": 16,
}


def test_a_cpu_cache_is_no_larger_than_can_be_used(assembled: Assemble) -> None:
    info = assembled(num_blocks=None, max_batch_size=3, max_context=30, block_size=8).info
    assert (info.num_blocks, info.max_context) == (3 * 4, 30)


def test_the_context_is_what_the_model_and_the_cache_allow(assembled: Assemble) -> None:
    assert assembled(num_blocks=9, block_size=4).info.max_context == 36
    assert assembled(num_blocks=4096).info.max_context == 512


def test_a_longer_context_than_the_models_can_be_asked_for(assembled: Assemble) -> None:
    assert assembled(num_blocks=4096, max_context=1000).info.max_context == 1000
    assert assembled(num_blocks=100, max_context=1000).info.max_context == 400


def test_it_says_what_it_holds(assembled: Assemble, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    info = assembled(model_name="tiny").info
    said = " ".join(record.getMessage() for record in caplog.records)
    assert (
        f"worker me holds tiny: float64 on cpu with torch kernels, {info.fingerprint[:12]}" in said
    )
    assert "64 blocks of 4 tokens, contexts up to 256, steps of up to 6 sequences and 64" in said


@pytest.mark.parametrize("name", ["max_kept_reports", "max_step_tokens", "max_context"])
def test_counts_fit_into_what_carries_them(name: str) -> None:
    with pytest.raises(ValidationError, match="less than or equal to 2147483647"):
        WorkerSettings(model="unused", **{name: 2**31})  # type: ignore[arg-type]


def test_a_cpu_computes_in_float32_unless_told_otherwise(assembled: Assemble) -> None:
    assert assembled(dtype="auto").info.dtype == "float32"
    assert assembled(dtype="bfloat16").info.dtype == "bfloat16"


def test_dtypes_have_different_fingerprints(assembled: Assemble) -> None:
    fingerprints = {assembled(dtype=dtype).info.fingerprint for dtype in ("float32", "float64")}
    assert len(fingerprints) == 2


def test_the_kernels_of_every_cpu_choice_start(assembled: Assemble) -> None:
    assert assembled(kernels="auto").info.block_size == 4


GIB = 2**30
BYTES_PER_BLOCK = 3 * 2 * 2 * 16 * 4 * 8  # of the small checkpoint in float64, blocks of 4


def test_a_cpu_cache_is_a_share_of_the_available_memory(
    assembled: Assemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker_svc.cache_size.free_bytes", lambda _: 100 * BYTES_PER_BLOCK)
    assert assembled(num_blocks=None).info.num_blocks == 30
    assert assembled(num_blocks=None, memory_fraction=0.1).info.num_blocks == 10
    with pytest.raises(WorkerUnavailable, match="no memory is left"):
        assembled(num_blocks=None, memory_fraction=0.001)


def test_blocks_that_do_not_fit_are_refused(
    assembled: Assemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WorkerUnavailable, match="--num-blocks 1000000000000: a KV cache"):
        assembled(num_blocks=10**12)
    monkeypatch.setattr("worker_svc.cache_size.free_bytes", lambda _: 100 * BYTES_PER_BLOCK)
    assert assembled(num_blocks=100).info.num_blocks == 100
    with pytest.raises(WorkerUnavailable, match="GiB are free on cpu"):
        assembled(num_blocks=101)


def test_one_slot_is_too_few(assembled: Assemble) -> None:
    with pytest.raises(WorkerUnavailable, match="--num-blocks 1 of --block-size 1: a sequence"):
        assembled(num_blocks=1, block_size=1)
    assert assembled(num_blocks=2, block_size=1).info.max_context == 2


def test_a_gpus_cache_leaves_room_for_a_step_and_a_share_for_nobody() -> None:
    assert cache_bytes(80 * GIB, 60 * GIB, 3 * GIB, 0.75) == 37 * GIB
    assert cache_bytes(80 * GIB, 60 * GIB, 3 * GIB, 1.0) == 57 * GIB
    assert cache_bytes(80 * GIB, 9 * GIB, 3 * GIB, 0.75) == 0


@pytest.mark.parametrize(
    ("max_batch_size", "max_step_tokens", "max_context", "expected"),
    [(6, 64, 100, (6, 10)), (6, 4, 100, (4, 1)), (2, 64, 9, (2, 8)), (1, 1, 2, (1, 1))],
)
def test_the_largest_step_is_as_large_as_a_step_can_be(
    assembled: Assemble,
    max_batch_size: int,
    max_step_tokens: int,
    max_context: int,
    expected: tuple[int, int],
) -> None:
    limits = Limits(257, max_context, 4, 64, max_batch_size, max_step_tokens)
    command = largest_step(limits, Flat())
    num_rows, num_tokens = expected
    assert command.row_num_tokens == (num_tokens,) * num_rows
    report = assembled(max_step_tokens=64).runner.execute(command)
    assert len(report.token_ids) == len(report.logprobs) == num_rows


@pytest.mark.parametrize("batching", ["continuous", "static"])
def test_a_rectangle_that_does_not_fit_beside_the_cache_is_refused(
    assembled: Assemble, monkeypatch: pytest.MonkeyPatch, batching: str
) -> None:
    padded = {"attention": "padded", "batching": batching, "max_context": 100}
    assert assembled(**padded).info.max_batch_size == 6
    monkeypatch.setattr("worker_svc.cache_size.free_bytes", lambda _: 64 * BYTES_PER_BLOCK + 10**6)
    with pytest.raises(WorkerUnavailable) as caught:
        assembled(**padded)
    problem, advice = str(caught.value).split("KV cache: ")
    assert problem.startswith("--attention padded: the largest step takes 0.0 GiB")
    assert advice == "lower --max-batch-size, --max-step-tokens or --max-context"
    assert assembled(**padded, max_batch_size=1, max_step_tokens=8).info.max_batch_size == 1
    assert assembled(attention="grouped").info.max_batch_size == 6


@pytest.mark.parametrize("batching", ["continuous", "static"])
def test_the_largest_rectangle_can_be_tried(assembled: Assemble, batching: str) -> None:
    """With a limit that dead rows do not count against."""
    limits, layout = Limits(257, 100, 4, 64, 6, 16), layout_for("padded", batching)  # type: ignore[arg-type]
    command = largest_step(limits, layout)
    settings = {"attention": "padded", "batching": batching}
    report = assembled(**settings, max_step_tokens=sum(command.row_num_tokens)).runner.execute(
        command
    )
    assert report.num_positions == {"continuous": 66, "static": 96}[batching]
    assert report.num_context == 6 * 99


def test_memory_that_runs_out_is_said_in_one_line(
    assembled: Assemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nSee more.")

    monkeypatch.setattr(Runner, "warm_up", full)
    with pytest.raises(WorkerUnavailable) as caught:
        assembled()
    message = "the memory of cpu is full: CUDA out of memory. Tried to allocate 9 GiB."
    assert str(caught.value) == message


@pytest.mark.parametrize("kernels", ["triton", "auto"])
def test_kernels_that_cannot_serve_a_model_are_refused(
    assembled: Assemble, monkeypatch: pytest.MonkeyPatch, kernels: str, tmp_path: Path
) -> None:
    triton = replace(select("torch", "cpu"), name="triton")
    monkeypatch.setattr("worker_svc.assembly.select", lambda *_: triton)
    with pytest.raises(WorkerUnavailable) as caught:
        assembled(kernels=kernels)
    problem = "the triton kernels do not compute in float64: use --kernels torch"
    assert str(caught.value) == f"--kernels {kernels}: {problem}"
    config = LlamaConfig(**SIZES, head_dim=512)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(WorkerUnavailable, match="head sizes up to 256, this model's is 512"):
        assembled(kernels=kernels, dtype="float32", model=str(tmp_path))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused(assembled: Assemble) -> None:
    with pytest.raises(WorkerUnavailable, match="no CUDA device"):
        assembled(device="cuda")


async def test_the_models_thread_computes_with_as_many_threads(assembled: Assemble) -> None:
    assembly = assembled(num_threads=1)
    engine = Engine(assembly.runner, assembly.info)
    loop = asyncio.get_running_loop()
    assert await loop.run_in_executor(engine._launcher, torch.get_num_threads) == 1
    await engine.drain(1.0)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPSERVE_MAX_BATCH_SIZE", "7")
    monkeypatch.setenv("STEPSERVE_MODEL", "somewhere")
    settings = WorkerSettings()  # type: ignore[call-arg]
    assert (settings.max_batch_size, settings.model) == (7, "somewhere")


def test_more_tokens_than_can_be_addressed_are_known() -> None:
    limits = Limits(257, 2**20, 4, 64, 4096, 64)
    assert not RowTable.fits(limits)
    assert RowTable.fits(replace(limits, max_batch_size=1024))
