"""Ragged paged attention in Triton: a kernel for chunks of prompts, one for decodes.

Both hold in one tile the query heads of one KV head times some of a row's tokens, and read keys and
values through the block table (Dao, "FlashAttention-2", section 3; the tile of grouped heads and
the split are those of vLLM's unified attention, arXiv 2511.11581, sections 4.3 and 4.4).

Rows with one token go to the decode kernel, whatever else is in the step. It divides a context into
segments of a fixed number of tokens, counted from position 0, and a second kernel joins what they
give ("Flash-Decoding for long-context inference"). Since neither the segments nor the tiles depend
on the other rows, nor does a row's output.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from worker_svc.kernels.attention import check_attention
from worker_svc.kernels.attention_tile import (
    attend,
    load_query,
    nothing_yet,
    output_places,
    row_cache,
    store_output,
    tile_begin,
)
from worker_svc.kernels.kernel import kernel, power_of_two, varying
from worker_svc.kernels.ragged import Ragged

if TYPE_CHECKING:
    import triton.language as tl

MIN_SEGMENT_LEN = 256
MAX_SEGMENTS = 64
SEGMENTS_AT_ONCE = 16
MAX_HEAD_DIM = 256


class _Tile(NamedTuple):
    num_lines: int  # (token, query head) pairs; more where one token has more heads
    num_keys: int
    num_warps: int
    num_stages: int


# By bytes of a number and padded head size: the largest that need no registers spilled on sm_80
# and sm_90. Products of float32 as IEEE numbers use no tensor cores, hence the small ones.
CHUNK_TILES = {
    (2, 64): _Tile(128, 64, 8, 4),
    (2, 128): _Tile(128, 32, 8, 4),
    (2, 256): _Tile(64, 32, 8, 4),
    (4, 64): _Tile(16, 32, 4, 2),
    (4, 128): _Tile(16, 16, 4, 2),
    (4, 256): _Tile(16, 16, 4, 1),
}
# The block ids and their keys are loads one after the other: five stages keep two tiles ahead.
DECODE_TILES = {
    (2, 64): _Tile(16, 64, 4, 5),
    (2, 128): _Tile(16, 64, 4, 5),
    (2, 256): _Tile(16, 32, 4, 5),
    (4, 64): _Tile(16, 32, 4, 2),
    (4, 128): _Tile(16, 16, 4, 2),
    (4, 256): _Tile(16, 16, 4, 2),
}


class _Tensors(NamedTuple):
    query: Any
    k_cache: Any
    v_cache: Any
    block_tables: Any
    row_ids: Any
    query_starts: Any
    context_lens: Any
    output: Any


class _Partials(NamedTuple):
    """What the segments of a decode give: float32 ``[R, Hq, segments, D]`` and twice less D."""

    mixed: Any
    top: Any
    total: Any


class _Strides(NamedTuple):
    query_token: int
    query_head: int
    table: int


class _Shape(NamedTuple):
    num_kv_heads: int
    group: int
    head_dim: int
    padded_dim: int
    block_size: int
    window: int
    num_lines: int
    num_keys: int
    precision: str
    segment: int


class _Launch(NamedTuple):
    tensors: _Tensors
    strides: _Strides
    scale: float
    shape: _Shape
    options: dict[str, Any]


def paged_attention_triton(
    query: Tensor, k_cache: Tensor, v_cache: Tensor, ragged: Ragged, scale: float, window: int
) -> Tensor:
    """``paged_attention`` (see ``Kernels``) for bfloat16, float16 and float32.

    Sums are in float32; float32 inputs are multiplied as IEEE numbers, not as TF32. Tokens past
    ``query_starts[R]`` are left undefined. Reads nothing back from the device.
    """
    check_attention(query, k_cache, v_cache, ragged)
    assert query.dtype in (torch.bfloat16, torch.float16, torch.float32)
    output = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    tensors = _Tensors(
        *(query, k_cache, v_cache, ragged.block_tables),
        *(ragged.row_ids, ragged.query_starts, ragged.context_lens, output),
    )
    if ragged.max_query_len > 1:
        launch = _prepare(tensors, scale, window, CHUNK_TILES)
        num_tiles = query.shape[0] // (launch.shape.num_lines // launch.shape.group)
        _chunk_kernel[(num_tiles + ragged.num_rows, launch.shape.num_kv_heads)](
            *(launch.tensors, launch.strides, launch.scale, ragged.num_rows, launch.shape),
            **launch.options,
        )
    _decode(_prepare(tensors, scale, window, DECODE_TILES), ragged)
    return output


def _decode(launch: _Launch, ragged: Ragged) -> None:
    query, shape = launch.tensors.query, launch.shape
    num_segments = -(-ragged.max_context_len // shape.segment)
    lines = (ragged.num_rows, query.shape[1], num_segments)
    partials = _Partials(
        torch.empty((*lines, shape.head_dim), dtype=torch.float32, device=query.device),
        torch.empty(lines, dtype=torch.float32, device=query.device),
        torch.empty(lines, dtype=torch.float32, device=query.device),
    )
    _decode_kernel[(ragged.num_rows, shape.num_kv_heads, num_segments)](
        *(launch.tensors, partials, launch.strides, launch.scale, shape), **launch.options
    )
    if num_segments > 1:
        _join_kernel[(ragged.num_rows, query.shape[1])](
            *(launch.tensors, partials, num_segments, shape), num_warps=4, enable_fp_fusion=True
        )


def _prepare(
    tensors: _Tensors, scale: float, window: int, tiles: dict[tuple[int, int], _Tile]
) -> _Launch:
    query, k_cache = tensors.query, tensors.k_cache
    _, num_kv_heads, block_size, head_dim = k_cache.shape
    assert head_dim <= MAX_HEAD_DIM
    padded_dim = max(16, power_of_two(head_dim))
    tile = tiles[query.element_size(), max(64, padded_dim)]
    group = query.shape[1] // num_kv_heads
    shape = _Shape(
        num_kv_heads=num_kv_heads,
        group=group,
        head_dim=head_dim,
        padded_dim=padded_dim,
        block_size=block_size,
        window=window,
        num_lines=max(tile.num_lines, power_of_two(group)),
        num_keys=tile.num_keys,
        precision="ieee" if query.dtype == torch.float32 else "tf32",
        segment=_segment_len(tensors.block_tables.shape[1] * block_size),
    )
    strides = _Strides(query.stride(0), query.stride(1), tensors.block_tables.stride(0))
    return _Launch(
        tensors=tensors,
        strides=strides,
        scale=scale * math.log2(math.e),
        shape=shape,
        options={
            "num_warps": tile.num_warps,
            "num_stages": tile.num_stages,
            "enable_fp_fusion": True,
        },
    )


def _segment_len(capacity: int) -> int:
    """Tokens a segment, for rows of at most ``capacity`` tokens: the same in every step."""
    return max(MIN_SEGMENT_LEN, power_of_two(-(-capacity // MAX_SEGMENTS)))


@varying("num_rows")
def _chunk_kernel(
    tensors: tl.tuple, strides: tl.tuple, scale: float, num_rows: int, shape: tl.constexpr
) -> None:
    """One program a tile: some tokens of one row, the query heads of one KV head."""
    tokens_per_tile: tl.constexpr = shape.num_lines // shape.group
    row = _find_row(tensors.query_starts, num_rows, tl.program_id(0), tokens_per_tile)
    start = tl.load(tensors.query_starts + row)
    query_len = tl.load(tensors.query_starts + row + 1) - start
    first = (tl.program_id(0) - start // tokens_per_tile - row) * tokens_per_tile
    if query_len < 2 or first >= query_len:
        return
    lines = tl.arange(0, shape.num_lines)
    tokens = first + lines // shape.group
    inside = (lines < tokens_per_tile * shape.group) & (tokens < query_len)
    places = output_places(start + tokens, lines, inside, shape)
    query = load_query(tensors, strides, places, shape)
    cache = row_cache(tensors, strides, row, shape)
    context_len = tl.load(tensors.context_lens + row)
    position = context_len - query_len + first
    positions = context_len - query_len + tokens
    begin, end = 0, tl.minimum(position + tokens_per_tile, context_len)
    state = nothing_yet(shape)
    if shape.window > 0:
        begin = tile_begin(position - shape.window + 1, shape)
    else:  # tiles of keys that every token sees need no mask
        seen = (position + 1) // shape.num_keys * shape.num_keys
        state = attend(query, cache, (positions, scale, 0, seen), state, shape, False)
        begin = seen
    state = attend(query, cache, (positions, scale, begin, end), state, shape, True)
    store_output(tensors.output, places, state, shape)


@kernel
def _decode_kernel(
    tensors: tl.tuple, partials: tl.tuple, strides: tl.tuple, scale: float, shape: tl.constexpr
) -> None:
    """One program a segment of one row's context, for the query heads of one KV head."""
    row, segment = tl.program_id(0), tl.program_id(2)
    start = tl.load(tensors.query_starts + row)
    context_len = tl.load(tensors.context_lens + row)
    first_segment, end_segment = _segments(context_len, shape)
    if tl.load(tensors.query_starts + row + 1) - start != 1:
        return
    if segment < first_segment or segment >= end_segment:
        return
    lines = tl.arange(0, shape.num_lines)
    places = output_places(start + lines * 0, lines, lines < shape.group, shape)
    query = load_query(tensors, strides, places, shape)
    cache = row_cache(tensors, strides, row, shape)
    positions = context_len - 1 + lines * 0
    begin = segment * shape.segment
    end = tl.minimum(begin + shape.segment, context_len)
    state = nothing_yet(shape)
    if shape.window > 0:
        begin = tl.maximum(begin, tile_begin(context_len - shape.window, shape))
    else:
        full = end // shape.num_keys * shape.num_keys
        state = attend(query, cache, (positions, scale, begin, full), state, shape, False)
        begin = full
    state = attend(query, cache, (positions, scale, begin, end), state, shape, True)
    if end_segment - first_segment == 1:
        store_output(tensors.output, places, state, shape)
    else:
        _store_partials(partials, (row, segment, lines), state, shape)


@varying("num_segments")
def _join_kernel(
    tensors: tl.tuple, partials: tl.tuple, num_segments: int, shape: tl.constexpr
) -> None:
    """One program a row and query head: join its segments, always in the same groups."""
    row, head = tl.program_id(0), tl.program_id(1)
    start = tl.load(tensors.query_starts + row)
    first, end = _segments(tl.load(tensors.context_lens + row), shape)
    if tl.load(tensors.query_starts + row + 1) - start != 1 or end - first == 1:
        return
    dims = tl.arange(0, shape.padded_dim)
    top = tl.full((), float("-inf"), tl.float32)
    total = tl.full((), 0.0, tl.float32)
    mixed = tl.full((shape.padded_dim,), 0.0, tl.float32)
    line = (row.to(tl.int64) * tl.num_programs(1) + head) * num_segments
    for group in range(first, end, SEGMENTS_AT_ONCE):
        segments = group + tl.arange(0, SEGMENTS_AT_ONCE)
        places, inside = line + segments, segments < end
        tops = tl.load(partials.top + places, mask=inside, other=float("-inf"))
        totals = tl.load(partials.total + places, mask=inside, other=0.0)
        new_top = tl.maximum(top, tl.max(tops, 0))
        shrink, weights = tl.exp2(top - new_top), tl.exp2(tops - new_top)
        pointers = partials.mixed + places[:, None] * shape.head_dim + dims[None, :]
        both = inside[:, None] & (dims < shape.head_dim)[None, :]
        parts = tl.load(pointers, mask=both, other=0.0)
        total = total * shrink + tl.sum(weights * totals, 0)
        mixed = mixed * shrink + tl.sum(weights[:, None] * parts, 0)
        top = new_top
    place = (start.to(tl.int64) * tl.num_programs(1) + head) * shape.head_dim
    output = (mixed / total).to(tensors.output.dtype.element_ty)
    tl.store(tensors.output + place + dims, output, mask=dims < shape.head_dim)


@kernel
def _find_row(
    query_starts: tl.tensor, num_rows: tl.tensor, tile: tl.tensor, tokens_per_tile: tl.constexpr
) -> tl.tensor:
    """A tile's row: those of row r begin at ``query_starts[r] // tokens_per_tile + r``."""
    low = tl.full((), 0, tl.int32)
    high = tl.full((), 0, tl.int32) + num_rows
    while high - low > 1:
        middle = (low + high) // 2
        begin = tl.load(query_starts + middle) // tokens_per_tile + middle
        low, high = tl.where(begin <= tile, middle, low), tl.where(begin <= tile, high, middle)
    return low


@kernel
def _segments(context_len: tl.tensor, shape: tl.constexpr) -> tl.tuple:
    """The first segment that the last token sees, and one past the last segment."""
    first = tl.full((), 0, tl.int32)
    if shape.window > 0:
        first += tl.maximum(context_len - shape.window, 0) // shape.segment
    return first, tl.cdiv(context_len, shape.segment)


@kernel
def _store_partials(partials: tl.tuple, at: tl.tuple, state: tl.tuple, shape: tl.constexpr) -> None:
    row, segment, lines = at
    top, total, mixed = state
    heads = tl.program_id(1) * shape.group + lines
    inside = lines < shape.group
    line = row.to(tl.int64) * (shape.num_kv_heads * shape.group) + heads
    places = line * tl.num_programs(2) + segment
    tl.store(partials.top + places, top, mask=inside)
    tl.store(partials.total + places, total, mask=inside)
    dims = tl.arange(0, shape.padded_dim)
    mask = inside[:, None] & (dims < shape.head_dim)[None, :]
    pointers = partials.mixed + places[:, None] * shape.head_dim + dims[None, :]
    tl.store(pointers, mixed, mask=mask)
