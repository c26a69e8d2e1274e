"""What attention's Triton kernels do with one tile: queries of one KV head against its cache.

A tile's lines are (query token, query head) pairs. Softmax runs online over tiles of keys (Dao,
"FlashAttention-2", section 3.1), in powers of two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker_svc.kernels.kernel import kernel

if TYPE_CHECKING:
    import triton.language as tl


@kernel
def tile_begin(position: tl.tensor, shape: tl.constexpr) -> tl.tensor:
    return tl.maximum(position, 0) // shape.num_keys * shape.num_keys


@kernel
def output_places(
    tokens: tl.tensor, lines: tl.tensor, inside: tl.tensor, shape: tl.constexpr
) -> tl.tuple:
    """(token, query head, whether it exists) of each line of a tile."""
    return tokens.to(tl.int64), tl.program_id(1) * shape.group + lines % shape.group, inside


@kernel
def load_query(
    tensors: tl.tuple, strides: tl.tuple, places: tl.tuple, shape: tl.constexpr
) -> tl.tensor:
    tokens, heads, inside = places
    dims = tl.arange(0, shape.padded_dim)
    lines = tensors.query + tokens * strides.query_token + heads * strides.query_head
    mask = inside[:, None] & (dims < shape.head_dim)[None, :]
    return tl.load(lines[:, None] + dims[None, :], mask=mask, other=0.0)


@kernel
def row_cache(
    tensors: tl.tuple, strides: tl.tuple, row: tl.tensor, shape: tl.constexpr
) -> tl.tuple:
    """Pointers to the KV head's place in the first block, and to the row's block table."""
    head = tl.program_id(1).to(tl.int64) * shape.block_size * shape.head_dim
    row_id = tl.load(tensors.row_ids + row).to(tl.int64)
    table = tensors.block_tables + row_id * strides.table
    return tensors.k_cache + head, tensors.v_cache + head, table


@kernel
def nothing_yet(shape: tl.constexpr) -> tl.tuple:
    """Each line's largest score, sum of weights, and values by weight: (top, total, mixed)."""
    top = tl.full((shape.num_lines,), float("-inf"), tl.float32)
    total = tl.full((shape.num_lines,), 0.0, tl.float32)
    return top, total, tl.full((shape.num_lines, shape.padded_dim), 0.0, tl.float32)


@kernel
def _key_places(
    table: tl.tensor, keys_at: tl.tensor, exists: tl.tensor, shape: tl.constexpr
) -> tl.tensor:
    """Where the keys of these positions begin, from the KV head's place in block 0."""
    block_ids = tl.load(table + keys_at // shape.block_size, mask=exists, other=0)
    lines = block_ids.to(tl.int64) * (shape.num_kv_heads * shape.block_size)
    return (lines + keys_at % shape.block_size) * shape.head_dim


@kernel
def attend(
    query: tl.tensor,
    cache: tl.tuple,
    view: tl.tuple,
    state: tl.tuple,
    shape: tl.constexpr,
    masked: tl.constexpr,
) -> tl.tuple:
    """Take in the keys and values from ``begin`` to ``end``; without a mask all lines see all."""
    k_cache, v_cache, table = cache
    positions, scale, begin, end = view
    top, total, mixed = state
    dims = tl.arange(0, shape.padded_dim)
    for first in range(begin, end, shape.num_keys):
        keys_at = first + tl.arange(0, shape.num_keys)
        exists = keys_at < end
        places = _key_places(table, keys_at, exists, shape)
        mask = exists[None, :] & (dims < shape.head_dim)[:, None]
        keys = tl.load(k_cache + places[None, :] + dims[:, None], mask=mask, other=0.0)
        scores = tl.dot(query, keys, input_precision=shape.precision) * scale
        if masked:
            visible = exists[None, :] & (keys_at[None, :] <= positions[:, None])
            if shape.window > 0:
                visible &= keys_at[None, :] > positions[:, None] - shape.window
            scores = tl.where(visible, scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        finite_top = tl.where(new_top == float("-inf"), 0.0, new_top) if masked else new_top
        weights = tl.exp2(scores - finite_top[:, None])
        shrink = tl.exp2(top - finite_top)
        mask = exists[:, None] & (dims < shape.head_dim)[None, :]
        values = tl.load(v_cache + places[:, None] + dims[None, :], mask=mask, other=0.0)
        total = total * shrink + tl.sum(weights, 1)
        mixed = tl.dot(
            weights.to(values.dtype),
            values,
            mixed * shrink[:, None],
            input_precision=shape.precision,
        )
        top = new_top
    return top, total, mixed


@kernel
def store_output(output: tl.tensor, places: tl.tuple, state: tl.tuple, shape: tl.constexpr) -> None:
    tokens, heads, inside = places
    _, total, mixed = state
    dims = tl.arange(0, shape.padded_dim)
    lines = (tokens * (shape.num_kv_heads * shape.group) + heads) * shape.head_dim
    mask = inside[:, None] & (dims < shape.head_dim)[None, :]
    total = tl.where(inside, total, 1.0)  # a line that does not exist may have seen nothing
    normed = (mixed / total[:, None]).to(output.dtype.element_ty)
    tl.store(output + lines[:, None] + dims[None, :], normed, mask=mask)
