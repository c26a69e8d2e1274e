"""``uniforms`` in Triton, whose ``tl.philox`` is the same generator."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_SIZE = 128


def uniforms_triton(seeds: Tensor, indexes: Tensor, offsets: Tensor) -> Tensor:
    """``uniforms_reference`` in one launch, the same bits."""
    assert seeds.dim() == 1
    assert seeds.dtype == torch.int64
    assert seeds.shape == indexes.shape == offsets.shape
    assert seeds.is_contiguous()
    assert indexes.is_contiguous()
    assert offsets.is_contiguous()
    numbers = torch.empty(seeds.shape, dtype=torch.float64, device=seeds.device)
    count = seeds.shape[0]
    _uniforms_kernel[(-(-count // BLOCK_SIZE),)](
        seeds,
        indexes,
        offsets,
        numbers,
        count,
        BLOCK_SIZE,
        num_warps=4,
        enable_fp_fusion=False,
    )
    return numbers


@triton.jit(do_not_specialize=["count"])
def _uniforms_kernel(
    seeds: tl.tensor,
    indexes: tl.tensor,
    offsets: tl.tensor,
    numbers: tl.tensor,
    count: int,
    num_lanes: tl.constexpr,
) -> None:
    at = tl.program_id(0) * num_lanes + tl.arange(0, num_lanes)
    inside = at < count
    keys = tl.load(seeds + at, mask=inside, other=0).to(tl.uint64, bitcast=True)
    index = tl.load(indexes + at, mask=inside, other=0).to(tl.uint32)
    offset = tl.load(offsets + at, mask=inside, other=0).to(tl.uint64)
    low, high = offset.to(tl.uint32), (offset >> 32).to(tl.uint32)
    first, second, _, _ = tl.philox(keys, low, high, index, tl.zeros_like(index))
    mantissa = (first >> 5).to(tl.uint64) * 67108864 + (second >> 6).to(tl.uint64)
    tl.store(numbers + at, mantissa.to(tl.float64) * 2.0**-53, mask=inside)
