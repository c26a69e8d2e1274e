"""How large the KV cache may be: what the memory holds beside the weights and a step's work."""

from __future__ import annotations

from dataclasses import replace

import torch

from kvstore.blocks import num_blocks_for
from kvstore.cache import CacheShape, KVCache
from stepserve.modelfiles.directory import first_line
from stepserve.protocol.errors import StepserveError
from worker_svc.core.limits import Limits
from worker_svc.memory import free_bytes, peak_bytes
from worker_svc.model.loading import LoadedModel
from worker_svc.runner import Runner
from worker_svc.settings import WorkerSettings
from worker_svc.step.graphs import graph_bytes
from worker_svc.step.layout import Layout
from worker_svc.step.rows import RowTable
from worker_svc.step.synthetic import largest_step

# Of a GPU's whole memory, which is ours; of what is available to a CPU, which is shared.
MEMORY_FRACTIONS = {"cuda": 0.9, "cpu": 0.3}


class WorkerUnavailable(StepserveError):
    """These settings can't be served on this machine; the message says what to change."""


def make_room(
    settings: WorkerSettings, model: LoadedModel, layout: Layout
) -> tuple[Limits, KVCache]:
    """The cache, and the limits that it and the model set. Raises WorkerUnavailable."""
    config, device = model.config, model.decoder.device
    shape = model.cache_shape(settings.block_size)
    limits = Limits(
        vocab_size=config.vocab_size,
        max_context=config.max_context,
        block_size=settings.block_size,
        num_blocks=1,
        max_batch_size=settings.max_batch_size,
        max_step_tokens=settings.max_step_tokens,
    )
    if not RowTable.fits(limits):
        raise WorkerUnavailable(
            f"--max-batch-size {limits.max_batch_size} of contexts up to {limits.max_context} are "
            "more tokens than a worker can keep: lower it or --max-context"
        )
    if settings.num_blocks is not None:
        num_blocks = settings.num_blocks
        _check_num_blocks(num_blocks, shape, device)
    else:
        num_blocks = _num_blocks_free(settings, model, layout, limits)
    num_places = num_blocks * settings.block_size
    limits = replace(limits, num_blocks=num_blocks, max_context=min(limits.max_context, num_places))
    if settings.attention == "padded" and device.type == "cpu":
        _check_rectangle(model, layout, limits)
    try:
        return limits, KVCache(shape, num_blocks, device)
    except RuntimeError as error:
        raise WorkerUnavailable(f"{_size(num_blocks, shape)}: {first_line(error)}") from error


def has_graphs(settings: WorkerSettings, device: torch.device) -> bool:
    """Whether steps are to be captured: the baselines read lengths on the host."""
    is_captured = settings.attention == "paged" and settings.kernels != "torch"
    return settings.cuda_graphs and device.type == "cuda" and is_captured


def cache_bytes(total: int, free: int, step: int, fraction: float) -> int:
    """What a GPU's cache may take, in bytes.

    Of ``total`` bytes ``free`` are left by the weights and others; of these a step takes ``step``,
    and 1 - ``fraction`` of the total stays free.
    """
    return max(0, free - step - int(total * (1 - fraction)))


def _check_num_blocks(num_blocks: int, shape: CacheShape, device: torch.device) -> None:
    if num_blocks * shape.block_size < 2:
        raise WorkerUnavailable("--num-blocks 1 of --block-size 1: a sequence needs two tokens")
    free = free_bytes(device)
    if num_blocks * shape.bytes_per_block > free:
        raise WorkerUnavailable(
            f"--num-blocks {num_blocks}: {_size(num_blocks, shape)}, "
            f"{free / 2**30:.1f} GiB are free on {device}"
        )


def _check_rectangle(model: LoadedModel, layout: Layout, limits: Limits) -> None:
    """Raise WorkerUnavailable where the largest padded step does not fit beside a CPU's cache.

    A GPU's step is measured, a CPU's cannot be: this counts what the decoder and attention hold
    at once, the mask with the booleans that it is made from.
    """
    config, itemsize = model.config, model.decoder.dtype.itemsize
    rows = layout.largest_rows(limits)
    num_positions, context = sum(count for count, _ in rows), rows[0][1]
    heads = 2 * (config.num_heads + config.num_kv_heads)
    layer = 4 * config.hidden_size + max(3 * config.intermediate_size, heads * config.head_dim)
    gathered = 2 * len(rows) * context * config.num_kv_heads * config.head_dim
    step = (num_positions * layer + gathered) * itemsize
    step += num_positions * context * (itemsize + 2)
    cache = limits.num_blocks * model.cache_shape(limits.block_size).bytes_per_block
    free = free_bytes(model.decoder.device) - cache
    if step > free:
        raise WorkerUnavailable(
            f"--attention padded: the largest step takes {step / 2**30:.1f} GiB, "
            f"{max(0, free) / 2**30:.1f} GiB are left beside the KV cache: "
            "lower --max-batch-size, --max-step-tokens or --max-context"
        )


def _num_blocks_free(
    settings: WorkerSettings, model: LoadedModel, layout: Layout, limits: Limits
) -> int:
    """A GPU's memory is all taken; of a CPU's no more than can be used."""
    device, shape = model.decoder.device, model.cache_shape(limits.block_size)
    fraction = settings.memory_fraction or MEMORY_FRACTIONS[device.type]
    if device.type == "cpu":
        wanted = limits.max_batch_size * num_blocks_for(limits.max_context, limits.block_size)
        num_blocks = min(wanted, shape.num_blocks_that_fit(free_bytes(device), fraction))
    else:

        def execute_the_largest() -> None:
            command = largest_step(limits, layout)
            enough = replace(limits, max_step_tokens=sum(command.row_num_tokens))
            cache = KVCache(shape, limits.num_blocks, device)
            Runner(model.decoder, cache, enough, layout).execute(command)

        step = peak_bytes(device, execute_the_largest)
        if has_graphs(settings, device):
            row_bytes = model.config.hidden_size * model.decoder.dtype.itemsize
            step += graph_bytes(limits, step, row_bytes)
        total = torch.cuda.get_device_properties(device).total_memory
        free = cache_bytes(total, free_bytes(device), step, fraction)
        num_blocks = shape.num_blocks_that_fit(free, 1.0)
    if num_blocks * shape.block_size < 2:
        raise WorkerUnavailable("no memory is left for the KV cache: a smaller model, or more")
    return num_blocks


def _size(num_blocks: int, shape: CacheShape) -> str:
    return f"a KV cache of {num_blocks * shape.bytes_per_block / 2**30:.1f} GiB"
