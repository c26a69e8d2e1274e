"""``advance`` in one launch."""

from __future__ import annotations

import triton
import triton.language as tl

from worker_svc.kernels import record as _record
from worker_svc.kernels.choice import Choice, SampledRows, SamplingTable

MAX_TOKENS = tl.constexpr(_record.MAX_TOKENS)
NUM_STOPS = tl.constexpr(_record.NUM_STOPS)
FIRST_STOP = tl.constexpr(_record.FIRST_STOP)
RECORD_WORDS = tl.constexpr(_record.RECORD_WORDS)


def advance_triton(choice: Choice, sampled: SampledRows, table: SamplingTable) -> None:
    """``advance_reference``."""
    advance_kernel[(len(sampled.row_ids),)](
        choice.token_ids,
        choice.is_finite,
        sampled.row_ids,
        sampled.positions,
        table.records,
        table.token_ids,
        table.token_ids.stride(0),
        table.has_ended,
        table.has_ended.stride(0),
        num_warps=1,
    )


@triton.jit(do_not_specialize_on_alignment=["chosen", "is_finite", "row_ids", "positions"])
def advance_kernel(
    chosen: tl.tensor,
    is_finite: tl.tensor,
    row_ids: tl.tensor,
    positions: tl.tensor,
    records: tl.tensor,
    token_ids: tl.tensor,
    tokens_stride: int,
    has_ended: tl.tensor,
    has_ended_stride: int,
) -> None:
    """One program a row."""
    row = tl.program_id(0)
    row_id = tl.load(row_ids + row).to(tl.int64)
    if row_id >= 0:
        has_ended += row_id * has_ended_stride
        if tl.load(has_ended) == 0:
            record = records + row_id * RECORD_WORDS
            token, position = tl.load(chosen + row), tl.load(positions + row)
            is_sound = tl.load(is_finite + row) != 0
            at = tl.arange(0, RECORD_WORDS)
            is_stop = at < tl.load(record + NUM_STOPS)
            stops = tl.load(record + FIRST_STOP + at, mask=is_stop, other=-1)
            is_end = tl.max((stops == token).to(tl.int32), 0) > 0
            is_end |= position + 1 >= tl.load(record + MAX_TOKENS)
            tl.store(token_ids + row_id * tokens_stride + position, token, mask=is_sound)
            tl.store(has_ended, (is_end | (is_sound == 0)).to(tl.int32))
