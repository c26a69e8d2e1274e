"""The paged KV cache: one tensor of blocks, addressed by the block ids that the pool hands out.

Source: Kwon et al., "Efficient Memory Management for Large Language Model Serving with
PagedAttention", section 4.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class CacheShape:
    """What one block of a model's cache holds: ``block_size`` tokens in every layer."""

    num_layers: int
    num_kv_heads: int
    head_dim: int
    block_size: int
    dtype: torch.dtype

    @property
    def bytes_per_block(self) -> int:
        """Keys and values of ``block_size`` tokens in all layers, in bytes."""
        elements = self.num_layers * 2 * self.num_kv_heads * self.block_size * self.head_dim
        return elements * self.dtype.itemsize

    def num_blocks_that_fit(self, free_bytes: int, fraction: float) -> int:
        """How many blocks ``fraction`` (0 to 1) of ``free_bytes`` holds; 0 if not even one."""
        return max(0, int(free_bytes * fraction) // self.bytes_per_block)


class KVCache:
    """Keys and values of ``num_blocks`` blocks in every layer, zero at first.

    Zero, because a masked score of 0 times a NaN left in fresh memory would still be NaN.
    """

    def __init__(self, shape: CacheShape, num_blocks: int, device: torch.device | str) -> None:
        sizes = (num_blocks, shape.num_kv_heads, shape.block_size, shape.head_dim)
        self._blocks = torch.zeros((shape.num_layers, 2, *sizes), dtype=shape.dtype, device=device)

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """``(k_cache, v_cache)`` of one layer, each
        ``[num_blocks, num_kv_heads, block_size, head_dim]``."""
        return self._blocks[index, 0], self._blocks[index, 1]
