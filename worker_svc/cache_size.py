"""How large the KV cache may be: what the memory holds beside the weights and a step's work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from kvstore.blocks import num_blocks_for
from kvstore.cache import CacheShape, KVCache
from stepserve.protocol.errors import first_line
from worker_svc.core.limits import Limits
from worker_svc.errors import WorkerUnavailable
from worker_svc.machine.memory import free_bytes, peak_bytes
from worker_svc.model.model import Model
from worker_svc.runner import Runner
from worker_svc.settings import WorkerSettings
from worker_svc.step.graphs import graph_bytes
from worker_svc.step.layout import Layout
from worker_svc.step.rows import RowTable
from worker_svc.step.synthetic import largest_step

# Of a GPU's whole memory, which is ours; of what is available to a CPU, which is shared.
MEMORY_FRACTIONS = {"cuda": 0.9, "cpu": 0.3}


def make_cache(
    settings: WorkerSettings,
    model: Model,
    layout: Layout,
    agree: Callable[[int], int] = int,
) -> tuple[Limits, KVCache]:
    """The cache, and the limits that it and the model set. Raises WorkerUnavailable.

    Of the blocks that fit here there are as many as ``agree`` says: all parts of a model have the
    same ones.
    """
    device = model.device
    shape = model.cache_shape(settings.block_size)
    limits = Limits(
        vocab_size=model.vocab_size,
        max_context=model.max_context,
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
    num_blocks = agree(num_blocks)
    num_slots = num_blocks * settings.block_size
    limits = replace(limits, num_blocks=num_blocks, max_context=min(limits.max_context, num_slots))
    if settings.attention == "padded" and device.type == "cpu":
        _check_rectangle(model, layout, limits)
    try:
        return limits, KVCache(shape, num_blocks, device)
    except RuntimeError as error:
        raise WorkerUnavailable(f"{_size(num_blocks, shape)}: {first_line(error)}") from error


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


def _check_rectangle(model: Model, layout: Layout, limits: Limits) -> None:
    """Raise WorkerUnavailable where the largest padded step does not fit beside a CPU's cache.

    A GPU's step is measured, a CPU's cannot be.
    """
    rows = layout.largest_rows(limits)
    width, context_len = rows[0]
    step = model.step_bytes(len(rows), width, context_len)
    cache = limits.num_blocks * model.cache_shape(limits.block_size).bytes_per_block
    free = free_bytes(model.device) - cache
    if step > free:
        raise WorkerUnavailable(
            f"--attention padded: the largest step takes {step / 2**30:.1f} GiB, "
            f"{max(0, free) / 2**30:.1f} GiB are left beside the KV cache: "
            "lower --max-batch-size, --max-step-tokens or --max-context"
        )


def _num_blocks_free(settings: WorkerSettings, model: Model, layout: Layout, limits: Limits) -> int:
    """A GPU's memory is all taken; of a CPU's no more than can be used."""
    device, shape = model.device, model.cache_shape(limits.block_size)
    fraction = settings.memory_fraction or MEMORY_FRACTIONS[device.type]
    if device.type == "cpu":
        wanted = limits.max_batch_size * num_blocks_for(limits.max_context, limits.block_size)
        num_blocks = min(wanted, shape.num_blocks_that_fit(free_bytes(device), fraction))
    else:

        def execute_the_largest() -> None:
            command = largest_step(limits, layout)
            enough = replace(limits, max_step_tokens=sum(command.row_num_tokens))
            cache = KVCache(shape, limits.num_blocks, device)
            runner = Runner(model, cache, enough, layout)
            runner.launch(runner.plan(command)).wait()

        step = peak_bytes(device, execute_the_largest)
        if settings.has_graphs(device.type):
            itemsize = model.dtype.itemsize
            row_bytes, logits_bytes = model.hidden_size * itemsize, model.vocab_size * itemsize
            step += graph_bytes(limits, step, row_bytes, logits_bytes, model.part)
        total = torch.cuda.get_device_properties(device).total_memory
        free = cache_bytes(total, free_bytes(device), step, fraction)
        num_blocks = shape.num_blocks_that_fit(free, 1.0)
    if num_blocks * shape.block_size < 2:
        raise WorkerUnavailable("no memory is left for the KV cache: a smaller model, or more")
    return num_blocks


def _size(num_blocks: int, shape: CacheShape) -> str:
    return f"a KV cache of {num_blocks * shape.bytes_per_block / 2**30:.1f} GiB"
