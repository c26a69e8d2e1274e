"""``add_rms_norm`` in Triton."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from worker_svc.kernels.early_triton import starts_early, wait_for_others
from worker_svc.kernels.rounding_triton import rounded_product, rounded_sum


def add_rms_norm_triton(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """``add_rms_norm_reference`` for ``[T, H]``, strided but for H."""
    num_tokens, hidden = x.shape
    assert x.shape == residual.shape
    assert x.dtype == residual.dtype == weight.dtype
    assert x.stride(1) == residual.stride(1) == weight.stride(0) == 1
    assert weight.shape == (hidden,)
    normed = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    total = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    padded = triton.next_power_of_2(hidden)
    _add_rms_norm_kernel[(num_tokens,)](
        x,
        x.stride(0),
        residual,
        residual.stride(0),
        weight,
        normed,
        total,
        eps,
        hidden,
        padded,
        starts_early(x),
        launch_pdl=starts_early(x),
        num_warps=min(max(padded // 512, 1), 8),
        enable_fp_fusion=False,
    )
    return normed, total


@triton.jit
def _add_rms_norm_kernel(
    x: tl.tensor,
    x_stride: int,
    residual: tl.tensor,
    residual_stride: int,
    weight: tl.tensor,
    normed: tl.tensor,
    total: tl.tensor,
    eps: float,
    hidden: tl.constexpr,
    padded: tl.constexpr,
    early: tl.constexpr,
) -> None:
    """One program a token."""
    wait_for_others(early)
    token = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, padded)
    inside = at < hidden
    update = tl.load(x + token * x_stride + at, mask=inside, other=0.0)
    before = tl.load(residual + token * residual_stride + at, mask=inside, other=0.0)
    after = rounded_sum(update, before)
    tl.store(total + token * hidden + at, after, mask=inside)
    wide = after.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide, 0) / hidden + eps)
    weights = tl.load(weight + at, mask=inside, other=0.0)
    scaled = rounded_product(weights, (wide * scale).to(after.dtype))
    tl.store(normed + token * hidden + at, scaled, mask=inside)
