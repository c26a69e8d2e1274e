"""Integers on their way to the device: many short arrays in one copy that nobody waits for."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

# 16 bytes of int32: where a part begins is divisible by it in every step, or Triton would compile
# anew for another alignment.
ALIGNED_ITEMS = 4

Array = NDArray[Any]
Part = Sequence[int] | Array


def pack(parts: Sequence[Part], device: torch.device) -> list[Tensor]:
    """The parts on the device, as views of one new int32 tensor."""
    return Buffer([len(part) for part in parts], device, is_filled_once=True).fill(parts)


class Buffer:
    """Memory on a device for parts of these sizes, int32, at addresses that stay.

    ``is_filled_once`` where the memory need not be there before it is filled.
    """

    def __init__(
        self, sizes: Sequence[int], device: torch.device, is_filled_once: bool = False
    ) -> None:
        self._sizes = sizes
        self._starts = [0, *accumulate(aligned(size) for size in sizes)]
        self._device = device
        self._memory: Tensor | None = None
        if not is_filled_once:
            self._memory = torch.zeros(self._starts[-1], dtype=torch.int32, device=device)

    def fill(self, parts: Sequence[Part], paddings: Sequence[int] | None = None) -> list[Tensor]:
        """Copy the parts from pinned memory; return the views that hold them.

        A part that is shorter than its size is filled up with its one of ``paddings``.
        """
        is_pinned = self._device.type == "cuda"
        # Pinned memory is given on by its allocator only once the copy from it has been made.
        host = torch.empty(self._starts[-1], dtype=torch.int32, pin_memory=is_pinned)
        array = host.numpy()
        for index, part in enumerate(parts):
            end = self._starts[index] + len(part)
            array[self._starts[index] : end] = part
            array[end : self._starts[index + 1]] = paddings[index] if paddings else 0
        if self._memory is None:
            self._memory = host.to(self._device, non_blocking=True)
        else:
            self._memory.copy_(host, non_blocking=True)
        return self.views()

    def views(self) -> list[Tensor]:
        """The parts on the device."""
        assert self._memory is not None
        return [
            self._memory[start : start + size]
            for start, size in zip(self._starts, self._sizes, strict=False)
        ]


def aligned(count: int) -> int:
    """``count`` numbers and what is left empty behind them."""
    return -(-count // ALIGNED_ITEMS) * ALIGNED_ITEMS
