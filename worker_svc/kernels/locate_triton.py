"""``locate`` in one launch."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from worker_svc.kernels.locate import RowTables

BLOCK_SIZE = 256


def locate_triton(row_ids: Tensor, positions: Tensor, tables: RowTables) -> tuple[Tensor, Tensor]:
    """See ``locate_reference``."""
    assert row_ids.shape == positions.shape
    assert row_ids.dtype == positions.dtype == torch.int32
    assert row_ids.is_contiguous()
    assert positions.is_contiguous()
    num_tokens = row_ids.shape[0]
    token_ids = torch.empty(num_tokens, dtype=torch.int64, device=row_ids.device)
    slots = torch.empty(num_tokens, dtype=torch.int32, device=row_ids.device)
    _locate_kernel[(triton.cdiv(num_tokens, BLOCK_SIZE),)](
        row_ids,
        positions,
        tables.token_ids,
        tables.token_ids.stride(0),
        tables.block_tables,
        tables.block_tables.stride(0),
        tables.has_ended,
        tables.has_ended.stride(0),
        token_ids,
        slots,
        num_tokens,
        tables.block_size,
        BLOCK_SIZE,
        num_warps=4,
    )
    return token_ids, slots


@triton.jit(do_not_specialize=["num_tokens"])
def _locate_kernel(
    row_ids: tl.tensor,
    positions: tl.tensor,
    tokens: tl.tensor,
    tokens_stride: int,
    block_tables: tl.tensor,
    block_tables_stride: int,
    has_ended: tl.tensor,
    has_ended_stride: int,
    token_ids: tl.tensor,
    slots: tl.tensor,
    num_tokens: int,
    BLOCK: tl.constexpr,
    SIZE: tl.constexpr,
) -> None:
    """One program for SIZE tokens; BLOCK is the cache's block size."""
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    inside = at < num_tokens
    row_id = tl.load(row_ids + at, mask=inside, other=0).to(tl.int64)
    position = tl.load(positions + at, mask=inside, other=0)
    token = tl.load(tokens + row_id * tokens_stride + position, mask=inside, other=0)
    tl.store(token_ids + at, token.to(tl.int64), mask=inside)
    block = tl.load(
        block_tables + row_id * block_tables_stride + position // BLOCK, mask=inside, other=0
    )
    ended = tl.load(has_ended + row_id * has_ended_stride, mask=inside, other=1)
    slot = tl.where(ended > 0, -1, block * BLOCK + position % BLOCK)
    tl.store(slots + at, slot, mask=inside)
