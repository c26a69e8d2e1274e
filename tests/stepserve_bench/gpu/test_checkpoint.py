from __future__ import annotations

import pytest
import torch

from stepserve_bench.gpu.checkpoint import _from


@pytest.mark.parametrize(("start", "count"), [(0, 3), (0, 5), (2, 3), (4, 4), (3, 14), (4, 1)])
def test_numbers_are_taken_from_the_pool_again_and_again(start: int, count: int) -> None:
    pool = torch.arange(5)
    expected = [(start + i) % 5 for i in range(count)]
    assert _from(pool, start, count).tolist() == expected
