"""Rotary position embedding, fused with writing keys and values to their slots in the cache.

Source: Su et al., "RoFormer", section 3.2.2, in the "rotate half" convention of transformers: the
pair of dimension i is i + D/2. In half precision each product is rounded before the sum, as there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from worker_svc.kernels.kernel import kernel, power_of_two
from worker_svc.kernels.rounding import rounded_difference, rounded_product, rounded_sum

if TYPE_CHECKING:
    import triton.language as tl


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


class _Tensors(NamedTuple):
    query: Any
    key: Any
    value: Any
    cos: Any
    sin: Any
    positions: Any
    slots: Any
    k_cache: Any
    v_cache: Any


class _Strides(NamedTuple):
    query: tuple[int, int]
    key: tuple[int, int]
    value: tuple[int, int]


class _Shape(NamedTuple):
    num_heads: int
    num_kv_heads: int
    padded_heads: int
    padded_kv_heads: int
    half: int
    padded_half: int
    block_size: int
    rotates: bool


def rotary_write_triton(query: Tensor, key: Tensor, value: Tensor, args: RotaryWrite) -> None:
    """``rotary_write_reference`` in one launch; the last stride of the inputs is 1."""
    assert query.shape[0] == key.shape[0]
    assert query.shape[2] == key.shape[2] == 2 * args.cos.shape[1]
    assert query.dtype == key.dtype == args.cos.dtype == args.sin.dtype
    assert query.stride(2) == 1
    assert args.cos.is_contiguous()
    assert args.sin.is_contiguous()
    assert args.positions.shape == query.shape[:1]
    _launch(query, key, value, args, rotates=True)


def write_kv_triton(key: Tensor, value: Tensor, args: RotaryWrite) -> None:
    """``write_kv_reference`` in one launch; the last stride of the inputs is 1."""
    _launch(key, key, value, args, rotates=False)


def _launch(query: Tensor, key: Tensor, value: Tensor, args: RotaryWrite, rotates: bool) -> None:
    num_tokens, num_kv_heads, head_dim = key.shape
    assert key.shape == value.shape
    assert head_dim % 2 == 0
    assert key.stride(2) == value.stride(2) == 1
    assert args.slots.shape == (num_tokens,)
    assert args.k_cache.shape == args.v_cache.shape
    assert args.k_cache.shape[1] == num_kv_heads
    assert args.k_cache.shape[3] == head_dim
    assert args.k_cache.is_contiguous()
    assert args.v_cache.is_contiguous()
    shape = _Shape(
        num_heads=query.shape[1],
        num_kv_heads=num_kv_heads,
        padded_heads=power_of_two(query.shape[1]),
        padded_kv_heads=power_of_two(num_kv_heads),
        half=head_dim // 2,
        padded_half=power_of_two(head_dim // 2),
        block_size=args.k_cache.shape[2],
        rotates=rotates,
    )
    tensors = _Tensors(
        *(query, key, value, args.cos, args.sin),
        *(args.positions, args.slots, args.k_cache, args.v_cache),
    )
    strides = _Strides(
        (query.stride(0), query.stride(1)),
        (key.stride(0), key.stride(1)),
        (value.stride(0), value.stride(1)),
    )
    _rotary_write_kernel[(num_tokens,)](
        tensors, strides, shape, num_warps=4, enable_fp_fusion=False
    )


@kernel
def _rotary_write_kernel(tensors: tl.tuple, strides: tl.tuple, shape: tl.constexpr) -> None:
    """One program a token, with all its heads."""
    token = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, shape.padded_half)
    if shape.rotates:
        position = tl.load(tensors.positions + token).to(tl.int64)
        cos = tl.load(tensors.cos + position * shape.half + at, mask=at < shape.half, other=0.0)
        sin = tl.load(tensors.sin + position * shape.half + at, mask=at < shape.half, other=0.0)
        heads = tl.arange(0, shape.padded_heads)[:, None]
        inside = (heads < shape.num_heads) & (at < shape.half)[None, :]
        places = token * strides.query[0] + heads * strides.query[1] + at[None, :]
        pair = _load_halves(tensors.query + places, inside, shape.half)
        _store_halves(tensors.query + places, _rotated(pair, cos, sin), inside, shape.half)
    slot = tl.load(tensors.slots + token).to(tl.int64)
    num_written = tl.where(slot >= 0, shape.num_kv_heads, 0)
    heads = tl.arange(0, shape.padded_kv_heads)[:, None]
    inside = (heads < num_written) & (at < shape.half)[None, :]
    places = token * strides.key[0] + heads * strides.key[1] + at[None, :]
    pair = _load_halves(tensors.key + places, inside, shape.half)
    if shape.rotates:
        pair = _rotated(pair, cos, sin)
    lines = (slot // shape.block_size * shape.num_kv_heads + heads) * shape.block_size
    cached = (lines + slot % shape.block_size) * (2 * shape.half) + at[None, :]
    _store_halves(tensors.k_cache + cached, pair, inside, shape.half)
    places = token * strides.value[0] + heads * strides.value[1] + at[None, :]
    pair = _load_halves(tensors.value + places, inside, shape.half)
    _store_halves(tensors.v_cache + cached, pair, inside, shape.half)


@kernel
def _load_halves(pointers: tl.tensor, inside: tl.tensor, half: tl.constexpr) -> tl.tuple:
    low = tl.load(pointers, mask=inside, other=0.0)
    high = tl.load(pointers + half, mask=inside, other=0.0)
    return low, high


@kernel
def _store_halves(
    pointers: tl.tensor, pair: tl.tuple, inside: tl.tensor, half: tl.constexpr
) -> None:
    tl.store(pointers, pair[0].to(pointers.dtype.element_ty), mask=inside)
    tl.store(pointers + half, pair[1].to(pointers.dtype.element_ty), mask=inside)


@kernel
def _rotated(pair: tl.tuple, cos: tl.tensor, sin: tl.tensor) -> tl.tuple:
    low, high = pair
    cos, sin = cos[None, :], sin[None, :]
    return (
        rounded_difference(rounded_product(low, cos), rounded_product(high, sin)),
        rounded_sum(rounded_product(high, cos), rounded_product(low, sin)),
    )
