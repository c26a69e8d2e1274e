"""Rotary position embedding, fused with what surrounds it: the norms of queries and keys before it,
and writing keys and values to their slots in the cache after it.

Source: Su et al., "RoFormer", section 3.2.2, in the "rotate half" convention of transformers: the
pair of dimension i is i + D/2. In half precision each product is rounded before the sum, as there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worker_svc.kernels.norm import rms_norm_reference


@dataclass(frozen=True, slots=True)
class HeadNorms:
    """The norms that some families apply to each query and key head before they rotate it.

    Attributes:
        query, key: the weights, ``[D]`` in the query's dtype.
        eps: as in ``rms_norm_reference``.
    """

    query: Tensor
    key: Tensor
    eps: float


@dataclass(frozen=True, slots=True)
class RotaryWrite:
    """What ``rotary_write`` needs beside query, key and value.

    Attributes:
        cos, sin: ``[P, D/2]`` in the query's dtype, by position.
        positions: ``[T]`` int32 or int64, each below P.
        slots: ``[T]`` int32 or int64, ``block_id * block_size + offset``; below zero: no write.
        k_cache, v_cache: ``[num_blocks, num_kv_heads, block_size, head_dim]``.
        norms: what is applied to query and key first; None is nothing.
    """

    cos: Tensor
    sin: Tensor
    positions: Tensor
    slots: Tensor
    k_cache: Tensor
    v_cache: Tensor
    norms: HeadNorms | None = None


def rotary_write_reference(query: Tensor, key: Tensor, value: Tensor, args: RotaryWrite) -> None:
    """Norm and rotate ``query [T, Hq, D]`` where it lies; write ``key``, normed and rotated, and
    ``value``, ``[T, Hkv, D]`` both, to the cache.

    ``key`` itself keeps its values.
    """
    cos = args.cos[args.positions].unsqueeze(1)
    sin = args.sin[args.positions].unsqueeze(1)
    normed_query, normed_key = normed(query, key, args.norms)
    query.copy_(_rotate(normed_query, cos, sin))
    rotated = _rotate(normed_key, cos, sin)
    block_size = args.k_cache.shape[2]
    written = args.slots >= 0
    slots = args.slots[written].to(torch.int64)
    block_ids, offsets = slots // block_size, slots % block_size
    args.k_cache[block_ids, :, offsets] = rotated[written].to(args.k_cache.dtype)
    args.v_cache[block_ids, :, offsets] = value[written].to(args.v_cache.dtype)


def normed(query: Tensor, key: Tensor, norms: HeadNorms | None) -> tuple[Tensor, Tensor]:
    """Query and key after their norms, or as they are."""
    if norms is None:
        return query, key
    return (
        rms_norm_reference(query, norms.query, norms.eps),
        rms_norm_reference(key, norms.key, norms.eps),
    )


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    low, high = x.chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)
