"""From settings to a worker: what it takes, what it tells of itself, what it refuses."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from tests.worker_svc.conftest import Assemble
from worker_svc.engine import Engine
from worker_svc.errors import WorkerUnavailable
from worker_svc.kernels import select
from worker_svc.runner import Runner

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


def test_a_cpu_computes_in_float32_unless_told_otherwise(assembled: Assemble) -> None:
    assert assembled(dtype="auto").info.dtype == "float32"
    assert assembled(dtype="bfloat16").info.dtype == "bfloat16"


def test_dtypes_have_different_fingerprints(assembled: Assemble) -> None:
    fingerprints = {assembled(dtype=dtype).info.fingerprint for dtype in ("float32", "float64")}
    assert len(fingerprints) == 2


def test_the_kernels_of_every_cpu_choice_start(assembled: Assemble) -> None:
    assert assembled(kernels="auto").info.block_size == 4


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
