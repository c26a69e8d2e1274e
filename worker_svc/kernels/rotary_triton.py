"""``rotary_write`` in Triton: norms, rotation and the cache's writes in one launch."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from worker_svc.kernels.early_triton import starts_early, wait_for_others
from worker_svc.kernels.rotary import HeadNorms, RotaryWrite
from worker_svc.kernels.rounding_triton import rounded_difference, rounded_product, rounded_sum


def rotary_write_triton(query: Tensor, key: Tensor, value: Tensor, args: RotaryWrite) -> None:
    """``rotary_write_reference`` in one launch; the last stride of the inputs is 1."""
    _check(query, key, value, args)
    num_tokens, num_heads, head_dim = query.shape
    num_kv_heads, half = key.shape[1], head_dim // 2
    norms = args.norms or HeadNorms(args.cos, args.cos, 0.0)  # read by nobody
    _rotary_write_kernel[(num_tokens,)](
        query,
        query.stride(0),
        query.stride(1),
        key,
        key.stride(0),
        key.stride(1),
        value,
        value.stride(0),
        value.stride(1),
        norms.query,
        norms.key,
        norms.eps,
        args.cos,
        args.sin,
        args.positions,
        args.slots,
        args.k_cache,
        args.v_cache,
        has_norms=args.norms is not None,
        num_heads=num_heads,
        padded_heads=triton.next_power_of_2(num_heads),
        num_kv_heads=num_kv_heads,
        padded_kv_heads=triton.next_power_of_2(num_kv_heads),
        half=half,
        padded_half=triton.next_power_of_2(half),
        block_size=args.k_cache.shape[2],
        early=starts_early(query),
        launch_pdl=starts_early(query),
        num_warps=4 if num_heads * half <= 2048 else 8,
        enable_fp_fusion=False,
    )


def _check(query: Tensor, key: Tensor, value: Tensor, args: RotaryWrite) -> None:
    num_tokens, num_kv_heads, head_dim = key.shape
    assert key.shape == value.shape
    assert query.shape[0] == num_tokens
    assert query.shape[2] == head_dim == 2 * args.cos.shape[1]
    assert query.dtype == key.dtype == args.cos.dtype == args.sin.dtype
    assert query.stride(2) == key.stride(2) == value.stride(2) == 1
    assert args.cos.is_contiguous()
    assert args.sin.is_contiguous()
    assert args.positions.shape == args.slots.shape == (num_tokens,)
    assert args.k_cache.shape == args.v_cache.shape
    assert args.k_cache.shape[1] == num_kv_heads
    assert args.k_cache.shape[3] == head_dim
    assert args.k_cache.is_contiguous()
    assert args.v_cache.is_contiguous()
    if args.norms is not None:
        assert args.norms.query.shape == args.norms.key.shape == (head_dim,)
        assert args.norms.query.dtype == args.norms.key.dtype == query.dtype
        assert args.norms.query.stride(0) == args.norms.key.stride(0) == 1


@triton.jit
def _rotary_write_kernel(
    query: tl.tensor,
    query_token_stride: int,
    query_head_stride: int,
    key: tl.tensor,
    key_token_stride: int,
    key_head_stride: int,
    value: tl.tensor,
    value_token_stride: int,
    value_head_stride: int,
    query_norm: tl.tensor,
    key_norm: tl.tensor,
    eps: float,
    cos: tl.tensor,
    sin: tl.tensor,
    positions: tl.tensor,
    slots: tl.tensor,
    k_cache: tl.tensor,
    v_cache: tl.tensor,
    has_norms: tl.constexpr,
    num_heads: tl.constexpr,
    padded_heads: tl.constexpr,
    num_kv_heads: tl.constexpr,
    padded_kv_heads: tl.constexpr,
    half: tl.constexpr,
    padded_half: tl.constexpr,
    block_size: tl.constexpr,
    early: tl.constexpr,
) -> None:
    """One program a token, with all its heads."""
    wait_for_others(early)
    token = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, padded_half)
    exists = at < half
    position = tl.load(positions + token).to(tl.int64)
    cosines = tl.load(cos + position * half + at, mask=exists, other=0.0)
    sines = tl.load(sin + position * half + at, mask=exists, other=0.0)
    heads = tl.arange(0, padded_heads)[:, None]
    inside = (heads < num_heads) & exists[None, :]
    offsets = token * query_token_stride + heads * query_head_stride + at[None, :]
    low, high = _load_halves(query + offsets, inside, half)
    if has_norms:
        low, high = _normed(low, high, query_norm, eps, half, padded_half)
    low, high = _rotated(low, high, cosines, sines)
    _store_halves(query + offsets, low, high, inside, half)
    slot = tl.load(slots + token).to(tl.int64)
    heads = tl.arange(0, padded_kv_heads)[:, None]
    inside = (heads < tl.where(slot >= 0, num_kv_heads, 0)) & exists[None, :]
    lines = (slot // block_size * num_kv_heads + heads) * block_size
    cached = (lines + slot % block_size) * (2 * half) + at[None, :]
    offsets = token * key_token_stride + heads * key_head_stride + at[None, :]
    low, high = _load_halves(key + offsets, inside, half)
    if has_norms:
        low, high = _normed(low, high, key_norm, eps, half, padded_half)
    low, high = _rotated(low, high, cosines, sines)
    _store_halves(k_cache + cached, low, high, inside, half)
    offsets = token * value_token_stride + heads * value_head_stride + at[None, :]
    low, high = _load_halves(value + offsets, inside, half)
    _store_halves(v_cache + cached, low, high, inside, half)


@triton.jit
def _load_halves(pointers: tl.tensor, inside: tl.tensor, half: tl.constexpr) -> tl.tuple:
    low = tl.load(pointers, mask=inside, other=0.0)
    high = tl.load(pointers + half, mask=inside, other=0.0)
    return low, high


@triton.jit
def _store_halves(
    pointers: tl.tensor, low: tl.tensor, high: tl.tensor, inside: tl.tensor, half: tl.constexpr
) -> None:
    tl.store(pointers, low.to(pointers.dtype.element_ty), mask=inside)
    tl.store(pointers + half, high.to(pointers.dtype.element_ty), mask=inside)


@triton.jit
def _normed(
    low: tl.tensor,
    high: tl.tensor,
    weight: tl.tensor,
    eps: float,
    half: tl.constexpr,
    padded_half: tl.constexpr,
) -> tl.tuple:
    """RMSNorm of each line's two halves, rounded as ``rms_norm_reference`` rounds."""
    at = tl.arange(0, padded_half)
    low_weight = tl.load(weight + at, mask=at < half, other=0.0)[None, :]
    high_weight = tl.load(weight + half + at, mask=at < half, other=0.0)[None, :]
    wide_low, wide_high = low.to(tl.float32), high.to(tl.float32)
    squares = tl.sum(wide_low * wide_low, 1) + tl.sum(wide_high * wide_high, 1)
    scale = tl.rsqrt(squares / (2 * half) + eps)[:, None]
    return (
        rounded_product(low_weight, (wide_low * scale).to(low.dtype)),
        rounded_product(high_weight, (wide_high * scale).to(high.dtype)),
    )


@triton.jit
def _rotated(low: tl.tensor, high: tl.tensor, cosines: tl.tensor, sines: tl.tensor) -> tl.tuple:
    cosines, sines = cosines[None, :], sines[None, :]
    return (
        rounded_difference(rounded_product(low, cosines), rounded_product(high, sines)),
        rounded_sum(rounded_product(high, cosines), rounded_product(low, sines)),
    )
