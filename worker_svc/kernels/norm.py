"""RMSNorm, alone and after adding the residual, with the numerics of transformers.

Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", section 3. As in transformers'
Llama the mean square is taken in float32 whatever the input's dtype, the normalised value is
rounded to the input's dtype, and only then is it multiplied by the weight.
"""

from __future__ import annotations

import torch
from torch import Tensor


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
