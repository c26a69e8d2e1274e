"""``rotary_write`` for CPUs, compiled by Numba, to the bits of its reference."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from worker_svc.kernels.compiled import Array, available_threads, compiled
from worker_svc.kernels.rotary import RotaryWrite, normed, rotary_write_reference

# From so many numbers on torch's threads gain more than its calls cost.
MAX_SERIAL_NUMBERS = 1 << 17


class _Arrays(NamedTuple):
    query: Array
    key: Array
    value: Array
    cos: Array
    sin: Array
    positions: Array
    slots: Array
    k_cache: Array
    v_cache: Array


def rotary_write_cpu(query: Tensor, key: Tensor, value: Tensor, args: RotaryWrite) -> None:
    """``rotary_write_reference`` for float32 and float64; 16 bits take the reference itself."""
    is_large = query.numel() > MAX_SERIAL_NUMBERS and available_threads() > 1
    if query.dtype not in (torch.float32, torch.float64) or is_large:
        rotary_write_reference(query, key, value, args)
        return
    if args.norms is not None:
        normed_query, key = normed(query, key, args.norms)
        query.copy_(normed_query)
    tensors = (
        query,
        key,
        value,
        args.cos,
        args.sin,
        args.positions,
        args.slots,
        args.k_cache,
        args.v_cache,
    )
    _rotary_write(_Arrays(*(tensor.numpy() for tensor in tensors)))


@compiled(fastmath=False)  # a fused product and sum would round once, the reference rounds twice
def _rotary_write(arrays: _Arrays) -> None:
    query, key, value = arrays.query, arrays.key, arrays.value
    half, block_size = arrays.cos.shape[1], arrays.k_cache.shape[2]
    for token in range(query.shape[0]):
        cos, sin = arrays.cos[arrays.positions[token]], arrays.sin[arrays.positions[token]]
        for head in range(query.shape[1]):
            line = query[token, head]
            _rotate(line, line, cos, sin)
        slot = arrays.slots[token]
        if slot < 0:
            continue
        block, offset = slot // block_size, slot % block_size
        for head in range(key.shape[1]):
            _rotate(key[token, head], arrays.k_cache[block, head, offset], cos, sin)
            for i in range(2 * half):
                arrays.v_cache[block, head, offset, i] = value[token, head, i]


@compiled(fastmath=False)
def _rotate(line: Array, rotated: Array, cos: Array, sin: Array) -> None:
    half = cos.shape[0]
    for i in range(half):
        low, high = line[i], line[half + i]
        rotated[i] = low * cos[i] - high * sin[i]
        rotated[half + i] = high * cos[i] + low * sin[i]
