"""From settings to a worker: what it takes, what it tells of itself, what it refuses."""

from __future__ import annotations

import asyncio

import pytest
import torch

from tests.worker.conftest import Assemble
from worker_svc.assembly import WorkerUnavailable
from worker_svc.engine import Engine
from worker_svc.settings import WorkerSettings


def test_a_cpu_cache_is_no_larger_than_can_be_used(assembled: Assemble) -> None:
    info = assembled(num_blocks=None, max_batch_size=3, max_context=30, block_size=8).info
    assert (info.num_blocks, info.max_context) == (3 * 4, 30)


def test_the_context_is_what_the_model_and_the_cache_allow(assembled: Assemble) -> None:
    assert assembled(num_blocks=9, block_size=4).info.max_context == 36
    assert assembled(num_blocks=4096, max_context=100_000).info.max_context == 512


def test_a_cpu_computes_in_float32_unless_told_otherwise(assembled: Assemble) -> None:
    assert assembled(dtype="auto").info.dtype == "float32"
    assert assembled(dtype="bfloat16").info.dtype == "bfloat16"


def test_dtypes_have_different_fingerprints(assembled: Assemble) -> None:
    fingerprints = {assembled(dtype=dtype).info.fingerprint for dtype in ("float32", "float64")}
    assert len(fingerprints) == 2


def test_the_kernels_of_every_cpu_choice_start(assembled: Assemble) -> None:
    assert assembled(kernels="auto").info.block_size == 4


def test_a_cache_that_does_not_fit_is_refused(assembled: Assemble) -> None:
    with pytest.raises(WorkerUnavailable, match="a KV cache of"):
        assembled(num_blocks=10**12)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused(assembled: Assemble) -> None:
    with pytest.raises(WorkerUnavailable, match="no CUDA device"):
        assembled(device="cuda")


async def test_the_models_thread_computes_with_as_many_threads(assembled: Assemble) -> None:
    assembly = assembled(num_threads=1)
    engine = Engine(assembly.runner, assembly.info)
    loop = asyncio.get_running_loop()
    assert await loop.run_in_executor(engine._thread, torch.get_num_threads) == 1
    await engine.drain(1.0)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPSERVE_MAX_BATCH_SIZE", "7")
    monkeypatch.setenv("STEPSERVE_MODEL", "somewhere")
    settings = WorkerSettings()  # type: ignore[call-arg]
    assert (settings.max_batch_size, settings.model) == (7, "somewhere")
