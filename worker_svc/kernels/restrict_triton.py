"""``restrict`` in one launch, which reads masks and writes floors, and none of the logits."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from worker_svc.kernels.restrict import Restriction

BLOCK_SIZE = 4096


def restrict_triton(logits: Tensor, restriction: Restriction, begin: int = 0) -> None:
    """``restrict_reference``."""
    assert logits.stride(1) == 1
    num_tokens = logits.shape[1]
    restrict_kernel[(len(restriction.at), triton.cdiv(num_tokens, BLOCK_SIZE))](
        logits,
        logits.stride(0),
        restriction.at,
        restriction.masks,
        restriction.masks.stride(0),
        restriction.floors,
        begin,
        num_tokens,
        BLOCK=BLOCK_SIZE,
        num_warps=8,
    )


@triton.jit(
    do_not_specialize=["begin", "num_tokens"],
    do_not_specialize_on_alignment=["at", "masks", "floors"],
)
def restrict_kernel(
    logits: tl.tensor,
    logits_stride: int,
    at: tl.tensor,
    masks: tl.tensor,
    masks_stride: int,
    floors: tl.tensor,
    begin: int,
    num_tokens: int,
    BLOCK: tl.constexpr,
) -> None:
    """One program for BLOCK tokens of a row."""
    row = tl.program_id(0)
    line = logits + tl.load(at + row).to(tl.int64) * logits_stride
    offsets = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < num_tokens
    token = begin + offsets
    words = tl.load(masks + row * masks_stride + token // 32, mask=inside, other=-1)
    is_forbidden = ((words >> (token % 32)) & 1) == 0
    floor = tl.load(floors + row).to(logits.dtype.element_ty)
    tl.store(line + offsets, tl.full((BLOCK,), 0, floor.dtype) + floor, mask=inside & is_forbidden)
