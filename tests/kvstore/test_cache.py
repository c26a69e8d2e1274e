"""The KV cache's tensor: its layout, its arithmetic, its zeros."""

from __future__ import annotations

import pytest
import torch

from kvstore.cache import CacheShape, KVCache

SHAPE = CacheShape(num_layers=3, num_kv_heads=2, head_dim=16, block_size=8, dtype=torch.float32)


def test_bytes_per_block_are_what_is_allocated() -> None:
    cache = KVCache(SHAPE, 5, "cpu")
    allocated = sum(part.nbytes for index in range(3) for part in cache.layer(index))
    assert allocated == 5 * SHAPE.bytes_per_block
    assert SHAPE.bytes_per_block == 3 * 2 * 2 * 8 * 16 * 4


def test_layers_are_contiguous_views_that_do_not_overlap() -> None:
    cache = KVCache(SHAPE, 5, "cpu")
    parts = [part for index in range(3) for part in cache.layer(index)]
    for number, part in enumerate(parts):
        assert part.shape == (5, 2, 8, 16)
        assert part.is_contiguous()
        part.fill_(number)
    assert [part.unique().tolist() for part in parts] == [[n] for n in range(6)]
    assert cache.layer(1)[0].data_ptr() == parts[2].data_ptr()


def test_fresh_memory_is_zero() -> None:
    # Small, so that the allocator hands out again what was just freed with NaNs in it.
    freed = [torch.full((3, 2, 2, 2, 8, 16), float("nan")) for _ in range(8)]
    del freed
    cache = KVCache(SHAPE, 2, "cpu")
    assert all(not part.any() for index in range(3) for part in cache.layer(index))


@pytest.mark.parametrize(
    ("free_blocks", "fraction", "expected"),
    [(10, 1.0, 10), (10, 0.55, 5), (0.5, 1.0, 0), (-3, 1.0, 0)],
)
def test_blocks_that_fit(free_blocks: float, fraction: float, expected: int) -> None:
    free_bytes = int(free_blocks * SHAPE.bytes_per_block)
    assert SHAPE.num_blocks_that_fit(free_bytes, fraction) == expected
