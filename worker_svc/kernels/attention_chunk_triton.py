"""Attention of rows with several tokens in a step: chunks of prompts."""

from __future__ import annotations

import triton
import triton.language as tl

from worker_svc.kernels.attention_tile_triton import (
    attend,
    attend_overlapped,
    load_query,
    nothing_yet,
    store_output,
    tile_begin,
)


@triton.jit(do_not_specialize=["num_rows"])
def chunk_kernel(
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
    num_rows: int,
    scale: float,
    output: tl.tensor,
    shape: tl.constexpr,
) -> None:
    """One program a tile: some tokens of one row, the query heads of one KV head.

    The last tiles of a row see the most keys, so they come first, of all heads: what is left at the
    end is short.
    """
    tokens_per_tile: tl.constexpr = shape.num_lines // shape.group
    kv_head = tl.program_id(0) % shape.num_kv_heads
    tile = (tl.num_programs(0) - 1 - tl.program_id(0)) // shape.num_kv_heads
    row = _find_row(query_starts, num_rows, tile, tokens_per_tile)
    start = tl.load(query_starts + row)
    query_len = tl.load(query_starts + row + 1) - start
    first = (tile - start // tokens_per_tile - row) * tokens_per_tile
    if query_len < 2 or first >= query_len:
        return
    lines = tl.arange(0, shape.num_lines)
    tokens = first + lines // shape.group
    inside = (lines < tokens_per_tile * shape.group) & (tokens < query_len)
    heads = kv_head * shape.group + lines % shape.group
    at = (start + tokens).to(tl.int64)
    offsets = at * query_token_stride + heads * query_head_stride
    queries = load_query(query, offsets, inside, shape)
    head_offset = kv_head.to(tl.int64) * (shape.block_size * shape.head_dim)
    table = block_tables + tl.load(row_ids + row).to(tl.int64) * table_stride
    cache = k_cache + head_offset, v_cache + head_offset, table
    context_len = tl.load(context_lens + row)
    position = context_len - query_len + first
    positions = context_len - query_len + tokens
    begin, end = 0, tl.minimum(position + tokens_per_tile, context_len)
    state = nothing_yet(shape)
    if shape.window > 0:
        begin = tile_begin(position - shape.window + 1, shape)
    else:  # tiles of keys that every token sees need no mask
        seen = tile_begin(position + 1, shape)
        if shape.overlaps:
            state = attend_overlapped(queries, cache, (positions, scale, 0, seen), state, shape)
        else:
            state = attend(queries, cache, (positions, scale, 0, seen), state, shape, False)
        begin = seen
    state = attend(queries, cache, (positions, scale, begin, end), state, shape, True)
    offsets = (at * (shape.num_kv_heads * shape.group) + heads) * shape.head_dim
    store_output(output, offsets, inside, state, shape)


@triton.jit
def _find_row(
    query_starts: tl.tensor, num_rows: tl.tensor, tile: tl.tensor, tokens_per_tile: tl.constexpr
) -> tl.tensor:
    """A tile's row: those of row r begin at ``query_starts[r] // tokens_per_tile + r``.

    It is the last row that does not begin after the tile. Many are looked at together: a search by
    halves would wait for one load after another.
    """
    num_begun = tl.full((), 0, tl.int32)
    for first in range(0, num_rows, 128):
        rows = first + tl.arange(0, 128)
        starts = tl.load(query_starts + rows, mask=rows < num_rows, other=0)
        has_begun = (rows < num_rows) & (starts // tokens_per_tile + rows <= tile)
        num_begun += tl.sum(has_begun.to(tl.int32), 0)
    return num_begun - 1
