"""From settings to a runner that is ready: the model, its kernels, and a cache that fits."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kvstore.blocks import num_blocks_for
from kvstore.cache import CacheShape, KVCache
from protos.errors import StepserveError
from protos.step import WorkerInfo
from worker_svc.checkpoint import first_line
from worker_svc.kernels import Kernels, KernelsUnavailable, select
from worker_svc.limits import Limits
from worker_svc.loading import LoadedModel, load_model
from worker_svc.memory import free_bytes
from worker_svc.runner import Runner
from worker_svc.settings import WorkerSettings

# Weights, batches and other processes live in the same memory.
CPU_CACHE_FRACTION = 0.3


class WorkerUnavailable(StepserveError):
    """These settings can't be served on this machine; the message says what to change."""


@dataclass(frozen=True, slots=True)
class Assembly:
    """A runner that has warmed up, and what it tells of itself."""

    runner: Runner
    info: WorkerInfo


def assemble(settings: WorkerSettings, incarnation: str) -> Assembly:
    """Load the model, take the memory for its cache, and execute a first step.

    Raises:
        CheckpointError: the checkpoint cannot be served.
        WorkerUnavailable: the device, the kernels or the memory are not there.
    """
    if settings.num_threads is not None:
        torch.set_num_threads(settings.num_threads)
    device = _device(settings.device)
    model = load_model(settings.model, settings.dtype, device, _kernels(settings.kernels, device))
    limits, cache = _make_room(settings, model)
    runner = Runner(model.decoder, cache, limits)
    runner.warm_up()
    return Assembly(runner, _info(settings, model, limits, incarnation))


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise WorkerUnavailable("--device cuda: torch finds no CUDA device here")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _kernels(name: str, device: torch.device) -> Kernels:
    try:
        return select(name, device)
    except KernelsUnavailable as error:
        raise WorkerUnavailable(f"--kernels {name}: {error}") from error


def _make_room(settings: WorkerSettings, model: LoadedModel) -> tuple[Limits, KVCache]:
    config, decoder = model.config, model.decoder
    shape = CacheShape(
        num_layers=config.num_layers,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        block_size=settings.block_size,
        dtype=decoder.dtype,
    )
    max_context = min(settings.max_context or config.max_context, config.max_context)
    num_blocks = settings.num_blocks or _num_blocks_free(
        settings, shape, decoder.device, max_context
    )
    if num_blocks * settings.block_size < 2:
        raise WorkerUnavailable("no memory is left for the KV cache: a smaller model, or more")
    limits = Limits(
        vocab_size=config.vocab_size,
        max_context=min(max_context, num_blocks * settings.block_size),
        block_size=settings.block_size,
        num_blocks=num_blocks,
        max_batch_size=settings.max_batch_size,
        max_step_tokens=settings.max_step_tokens,
    )
    try:
        return limits, KVCache(shape, num_blocks, decoder.device)
    except RuntimeError as error:
        size_gib = num_blocks * shape.bytes_per_block / 2**30
        problem = f"a KV cache of {size_gib:.1f} GiB: {first_line(error)}"
        raise WorkerUnavailable(problem) from error


def _num_blocks_free(
    settings: WorkerSettings, shape: CacheShape, device: torch.device, max_context: int
) -> int:
    """A GPU's memory is ours up to the fraction; a CPU's is shared: no more than can be used."""
    free = free_bytes(device)
    if device.type == "cpu":
        wanted = settings.max_batch_size * num_blocks_for(max_context, settings.block_size)
        return min(wanted, shape.num_blocks_that_fit(free, CPU_CACHE_FRACTION))
    total = torch.cuda.get_device_properties(device).total_memory
    kept_free = int(total * (1 - settings.memory_fraction))
    return shape.num_blocks_that_fit(max(0, free - kept_free), 1.0)


def _info(
    settings: WorkerSettings, model: LoadedModel, limits: Limits, incarnation: str
) -> WorkerInfo:
    return WorkerInfo(
        incarnation=incarnation,
        model=settings.model_name or model.name,
        fingerprint=model.fingerprint,
        dtype=str(model.decoder.dtype).removeprefix("torch."),
        vocab_size=limits.vocab_size,
        max_context=limits.max_context,
        block_size=limits.block_size,
        num_blocks=limits.num_blocks,
        max_batch_size=limits.max_batch_size,
        max_step_tokens=limits.max_step_tokens,
        max_kept_reports=settings.max_kept_reports,
    )
