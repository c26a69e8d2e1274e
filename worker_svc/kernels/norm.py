"""RMSNorm, alone and after adding the residual, with the numerics of transformers.

Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", section 3. As in transformers'
Llama the mean square is taken in float32 whatever the input's dtype, the normalised value is
rounded to the input's dtype, and only then is it multiplied by the weight.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from worker_svc.kernels.kernel import kernel, power_of_two
from worker_svc.kernels.rounding import rounded_product, rounded_sum

if TYPE_CHECKING:
    import triton.language as tl


class _Tensors(NamedTuple):
    x: Any
    residual: Any
    weight: Any
    normed: Any
    total: Any


class _Strides(NamedTuple):
    x: tuple[int, int]
    residual: tuple[int, int]


class _Shape(NamedTuple):
    inner: int
    hidden: int
    padded: int
    adds: bool


def rms_norm_triton(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``rms_norm_reference`` for ``[T, H]`` or ``[T, N, H]``, strided but for H."""
    normed = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch(_Tensors(x, x, weight, normed, normed), eps, adds=False)
    return normed


def add_rms_norm_triton(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """``add_rms_norm_reference`` for ``[T, H]`` or ``[T, N, H]``, strided but for H."""
    normed, total = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for _ in range(2))
    _launch(_Tensors(x, residual, weight, normed, total), eps, adds=True)
    return normed, total


def _launch(tensors: _Tensors, eps: float, adds: bool) -> None:
    x, residual, weight = tensors.x, tensors.residual, tensors.weight
    hidden = x.shape[-1]
    assert x.dim() in (2, 3)
    assert x.shape == residual.shape
    assert x.dtype == residual.dtype == weight.dtype
    assert x.stride(-1) == residual.stride(-1) == weight.stride(0) == 1
    assert weight.shape == (hidden,)
    inner = x.shape[1] if x.dim() == 3 else 1
    padded = power_of_two(hidden)
    _rms_norm_kernel[(x.shape[0] * inner,)](
        tensors,
        _Strides((x.stride(0), x.stride(1)), (residual.stride(0), residual.stride(1))),
        eps,
        _Shape(inner, hidden, padded, adds),
        num_warps=min(max(padded // 512, 1), 8),
        enable_fp_fusion=False,
    )


@kernel
def _rms_norm_kernel(tensors: tl.tuple, strides: tl.tuple, eps: float, shape: tl.constexpr) -> None:
    """One program a line of H numbers."""
    line = tl.program_id(0).to(tl.int64)
    outer, inner = line // shape.inner, line % shape.inner
    at = tl.arange(0, shape.padded)
    inside = at < shape.hidden
    x_line = tensors.x + outer * strides.x[0] + inner * strides.x[1]
    x = tl.load(x_line + at, mask=inside, other=0.0)
    dtype = x.dtype
    if shape.adds:
        residual_line = tensors.residual + outer * strides.residual[0] + inner * strides.residual[1]
        residual = tl.load(residual_line + at, mask=inside, other=0.0)
        x = rounded_sum(x, residual)
        tl.store(tensors.total + line * shape.hidden + at, x, mask=inside)
    wide = x.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide, 0) / shape.hidden + eps)
    rounded = (wide * scale).to(dtype)
    weight = tl.load(tensors.weight + at, mask=inside, other=0.0)
    normed = rounded_product(weight, rounded)
    tl.store(tensors.normed + line * shape.hidden + at, normed, mask=inside)


def rms_norm_reference(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``x [..., H]`` normalised over H and scaled by ``weight [H]``, in x's dtype."""
    wide = x.to(torch.float32)
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * wide.to(x.dtype)


def add_rms_norm_reference(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """``(rms_norm(x + residual), x + residual)`` for ``[T, H]`` inputs of one dtype."""
    total = x + residual
    return rms_norm_reference(total, weight, eps), total
