"""``add_rms_norm`` for CPUs, compiled by Numba: one call instead of seven of torch's."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from worker_svc.kernels.compiled import Array, available_threads, compiled
from worker_svc.kernels.norm import add_rms_norm_reference

# From so many numbers on torch's threads gain more than its calls cost.
MAX_SERIAL_NUMBERS = 1 << 17


def add_rms_norm_cpu(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """``add_rms_norm_reference`` for ``[T, H]`` in float32.

    Other dtypes take the reference itself: in float64 the bits of its float32 sum matter.
    """
    is_large = x.numel() > MAX_SERIAL_NUMBERS and available_threads() > 1
    if x.dtype != torch.float32 or x.dim() != 2 or is_large:
        return add_rms_norm_reference(x, residual, weight, eps)
    normed, total = torch.empty(x.shape), torch.empty(x.shape)
    inputs = (x.contiguous().numpy(), residual.contiguous().numpy(), weight.numpy())
    _normalise(*inputs, normed.numpy(), total.numpy(), np.float32(eps))
    return normed, total


@compiled()
def _normalise(
    x: Array, residual: Array, weight: Array, normed: Array, total: Array, eps: np.float32
) -> None:
    size = x.shape[1]
    for line in range(x.shape[0]):
        squares = np.float32(0)
        for i in range(size):
            number = x[line, i] + residual[line, i]
            total[line, i] = number
            squares += number * number
        scale = np.float32(1) / np.sqrt(squares / np.float32(size) + eps)
        for i in range(size):
            normed[line, i] = weight[i] * (total[line, i] * scale)
