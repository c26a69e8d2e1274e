"""Rotary position embedding, fused with writing keys and values to their slots in the cache.

Source: Su et al., "RoFormer", section 3.2.2, in the "rotate half" convention of transformers: the
pair of dimension i is i + D/2. In half precision each product is rounded before the sum, as there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class RotaryWrite:
    """What ``rotary_write`` needs beside query, key and value.

    Attributes:
        cos, sin: ``[P, D/2]`` in the query's dtype, by position.
        positions: ``[T]`` int32 or int64, each below P.
        slots: ``[T]`` int32 or int64, ``block_id * block_size + offset``; below zero: no write.
        k_cache, v_cache: ``[num_blocks, num_kv_heads, block_size, head_dim]``.
    """

    cos: Tensor
    sin: Tensor
    positions: Tensor
    slots: Tensor
    k_cache: Tensor
    v_cache: Tensor


def rotary_write_reference(query: Tensor, key: Tensor, value: Tensor, args: RotaryWrite) -> None:
    """Rotate ``query [T, Hq, D]`` in place; write rotated ``key`` and ``value [T, Hkv, D]``.

    ``key`` itself keeps its values.
    """
    cos = args.cos[args.positions].unsqueeze(1)
    sin = args.sin[args.positions].unsqueeze(1)
    query.copy_(_rotate(query, cos, sin))
    write_kv_reference(_rotate(key, cos, sin), value, args)


def write_kv_reference(key: Tensor, value: Tensor, args: RotaryWrite) -> None:
    """Write ``key`` and ``value [T, Hkv, D]`` as they are to ``args.slots`` of the caches."""
    block_size = args.k_cache.shape[2]
    written = args.slots >= 0
    slots = args.slots[written].to(torch.int64)
    block_ids, offsets = slots // block_size, slots % block_size
    args.k_cache[block_ids, :, offsets] = key[written].to(args.k_cache.dtype)
    args.v_cache[block_ids, :, offsets] = value[written].to(args.v_cache.dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    low, high = x.chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)
