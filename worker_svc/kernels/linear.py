"""The matrix product of a projection: torch's own, which is cuBLAS or MKL."""

from __future__ import annotations

import torch
from torch import Tensor


def linear_reference(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x [T, in] @ weight [in, out] + bias [out]``, ``[T, out]``; any memory order."""
    if bias is None:
        return torch.mm(x, weight)
    return torch.addmm(bias, x, weight)
