"""Memory that kernels work in during a step, kept for the next one."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Scratch:
    """Buffers by name. Nothing may be expected in one but zeros in what nobody wrote to."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers: dict[str, Tensor] = {}

    def get(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """The buffer ``name`` as a tensor of ``shape``; it grows where it is too small."""
        size = math.prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < size:
            buffer = torch.zeros(size, dtype=dtype, device=self._device)
            self._buffers[name] = buffer
        return buffer[:size].view(shape)
