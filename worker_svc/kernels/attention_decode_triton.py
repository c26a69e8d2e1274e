"""Attention of rows with one token in a step.

A context is divided into segments, counted from position 0: of ``segment_len`` tokens, or of twice
as many as often as it takes for MAX_SEGMENTS of them to hold it. Each is attended to by itself, and
what they give is joined one after another, the first one first ("Flash-Decoding for long-context
inference"). Short segments let a lone row of a few hundred tokens be read by many programs at once.
Who does it is free: one program all segments of a row, or several programs some each, of which the
one that is done last joins them. Both take the same sums in the same order, so a row's output has
the same bits however a step is split, and that may follow from how many rows there are: few rows
with long contexts fill the device, many rows are not split.
"""

from __future__ import annotations

import triton
import triton.language as tl

from worker_svc.kernels.attention_tile_triton import (
    attend,
    load_query,
    nothing_yet,
    store_output,
    tile_begin,
)
from worker_svc.kernels.early_triton import wait_for_others

MAX_SEGMENTS = tl.constexpr(16)


@triton.jit(do_not_specialize=["num_segments"])
def decode_kernel(
    query: tl.tensor,
    query_token_stride: int,
    query_head_stride: int,
    k_cache: tl.tensor,
    v_cache: tl.tensor,
    block_tables: tl.tensor,
    table_stride: int,
    row_ids: tl.tensor,
    query_starts: tl.tensor,
    context_lens: tl.tensor,
    num_segments: int,
    scale: float,
    output: tl.tensor,
    partials: tl.tensor,
    num_done: tl.tensor,
    shape: tl.constexpr,
    early: tl.constexpr,
) -> None:
    """One program for a part of one row's segments and the query heads of one KV head.

    ``partials``: ``[R, Hq, num_segments, D + 2]`` float32, the states of the segments of rows that
    are split; ``num_done``: zeros for each row and KV head. The last rows come first: where their
    contexts are the longest, what is left at the end is short.
    """
    wait_for_others(early)
    is_split = tl.num_programs(1) > 1
    kv_head = tl.program_id(0) % shape.num_kv_heads
    row = (tl.num_programs(0) - 1 - tl.program_id(0)) // shape.num_kv_heads
    start = tl.load(query_starts + row)
    context_len = tl.load(context_lens + row)
    segment_len = _segment_len(context_len, shape)
    first, end, part_len = _part(context_len, segment_len, shape)
    if (tl.load(query_starts + row + 1) - start != 1) | ((tl.program_id(1) > 0) & (first >= end)):
        return
    lines = tl.arange(0, shape.num_lines)
    heads = kv_head * shape.group + lines
    offsets = start.to(tl.int64) * query_token_stride + heads * query_head_stride
    queries = load_query(query, offsets, lines < shape.group, shape)
    head_offset = kv_head.to(tl.int64) * (shape.block_size * shape.head_dim)
    table = block_tables + tl.load(row_ids + row).to(tl.int64) * table_stride
    cache = k_cache + head_offset, v_cache + head_offset, table
    joined = nothing_yet(shape)
    line = row * (shape.num_kv_heads * shape.group) + heads  # the states are at most 64 MiB
    for segment in range(first, end):
        view = context_len, segment * segment_len, segment_len
        state = _attend_segment(queries, cache, view, scale, shape)
        if is_split:
            _store_partial(partials, line * num_segments + segment, state, shape)
        else:
            joined = _joined(joined, state)
    is_last = is_split == 0
    if is_split:
        first, end = _segments(context_len, segment_len, shape)
        is_last = _is_last(num_done + row * shape.num_kv_heads + kv_head, end - first, part_len)
        if is_last:
            joined = _join(partials, line * num_segments, (first, end), shape)
    if is_last:
        offsets = start.to(tl.int64) * (shape.num_kv_heads * shape.group) + heads
        store_output(output, offsets * shape.head_dim, lines < shape.group, joined, shape)


@triton.jit
def _is_last(num_done: tl.tensor, num_segments: tl.tensor, part_len: tl.tensor) -> tl.tensor:
    """Count this part; whether all others were done before, whose states can be read then."""
    tl.debug_barrier()  # the states of this part are written
    num_before = tl.atomic_add(num_done, 1, sem="acq_rel")
    is_last = num_before >= tl.cdiv(num_segments, part_len) - 1
    if is_last:
        tl.store(num_done, 0)
    return is_last


@triton.jit
def _join(
    partials: tl.tensor, offsets: tl.tensor, segments: tl.tuple, shape: tl.constexpr
) -> tl.tuple:
    """The state of a row from those of its segments, the first one first."""
    first, end = segments
    joined = nothing_yet(shape)
    for group in range(first, end, 4):  # whose loads wait together; past the end nothing is added
        for i in tl.static_range(4):
            state = _load_partial(partials, offsets + group + i, group + i < end, shape)
            joined = _joined(joined, state)
    return joined


@triton.jit
def _segment_len(context_len: tl.tensor, shape: tl.constexpr) -> tl.tensor:
    """Of the row's own context: whoever else is in the step, its sums are the same."""
    segment_len = tl.full((), shape.segment_len, tl.int32)
    while segment_len * MAX_SEGMENTS < context_len:
        segment_len *= 2
    return segment_len


@triton.jit
def _segments(context_len: tl.tensor, segment_len: tl.tensor, shape: tl.constexpr) -> tl.tuple:
    """The first segment that the last token sees, and one past the last segment."""
    first = tl.full((), 0, tl.int32)
    if shape.window > 0:
        first += tl.maximum(context_len - shape.window, 0) // segment_len
    return first, tl.cdiv(context_len, segment_len)


@triton.jit
def _part(context_len: tl.tensor, segment_len: tl.tensor, shape: tl.constexpr) -> tl.tuple:
    """This program's first segment, one past its last one, and the segments of a part.

    A row without context has one part, which finds nothing.
    """
    first, end = _segments(context_len, segment_len, shape)
    part_len = tl.maximum(tl.cdiv(end - first, tl.num_programs(1)), 1)
    first += tl.program_id(1) * part_len
    return first, tl.minimum(first + part_len, end), part_len


@triton.jit
def _attend_segment(
    queries: tl.tensor,
    cache: tl.tuple,
    view: tl.tuple,
    scale: float,
    shape: tl.constexpr,
) -> tl.tuple:
    context_len, begin, segment_len = view
    end = tl.minimum(begin + segment_len, context_len)
    positions = context_len - 1 + tl.arange(0, shape.num_lines) * 0
    state = nothing_yet(shape)
    if shape.window > 0:
        begin = tl.maximum(begin, tile_begin(context_len - shape.window, shape))
    return attend(queries, cache, (positions, scale, begin, end), state, shape, True)


@triton.jit
def _joined(joined: tl.tuple, state: tl.tuple) -> tl.tuple:
    """Both states in one. Products and sums are fused by name, so that no compiler chooses."""
    top = tl.maximum(joined[0], state[0])
    shrink, weight = tl.exp2(joined[0] - top), tl.exp2(state[0] - top)
    total = tl.fma(state[1], weight, joined[1] * shrink)
    mixed = tl.fma(state[2], weight[:, None], joined[2] * shrink[:, None])
    return top, total, mixed


@triton.jit
def _store_partial(
    partials: tl.tensor, offsets: tl.tensor, state: tl.tuple, shape: tl.constexpr
) -> None:
    top, total, mixed = state
    inside = tl.arange(0, shape.num_lines) < shape.group
    dims = tl.arange(0, shape.padded_dim)
    begins = partials + offsets * (shape.head_dim + 2)
    mask = inside[:, None] & (dims < shape.head_dim)[None, :]
    tl.store(begins[:, None] + dims[None, :], mixed, mask=mask)
    tl.store(begins + shape.head_dim, top, mask=inside)
    tl.store(begins + shape.head_dim + 1, total, mask=inside)


@triton.jit
def _load_partial(
    partials: tl.tensor, offsets: tl.tensor, exists: tl.tensor, shape: tl.constexpr
) -> tl.tuple:
    inside = (tl.arange(0, shape.num_lines) < shape.group) & exists
    dims = tl.arange(0, shape.padded_dim)
    begins = partials + offsets * (shape.head_dim + 2)
    mask = inside[:, None] & (dims < shape.head_dim)[None, :]
    # Other multiprocessors wrote them: the nearest cache is passed by.
    mixed = tl.load(begins[:, None] + dims[None, :], mask=mask, other=0.0, cache_modifier=".cg")
    top = tl.load(begins + shape.head_dim, mask=inside, other=float("-inf"), cache_modifier=".cg")
    total = tl.load(begins + shape.head_dim + 1, mask=inside, other=0.0, cache_modifier=".cg")
    return top, total, mixed
