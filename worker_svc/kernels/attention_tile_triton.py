"""What attention's Triton kernels do with one tile: queries of one KV head against its cache.

A tile's lines are (query token, query head) pairs. Softmax runs online over tiles of keys (Dao,
"FlashAttention-2", section 3.1), in powers of two. What it has taken in so far is its state: for
each line the largest score, the sum of the weights, and the values by weight.

``shape`` is an ``attention_triton.Shape`` throughout.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def tile_begin(position: tl.tensor, shape: tl.constexpr) -> tl.tensor:
    return tl.maximum(position, 0) // shape.num_keys * shape.num_keys


@triton.jit
def load_query(
    query: tl.tensor, places: tl.tensor, inside: tl.tensor, shape: tl.constexpr
) -> tl.tensor:
    """The queries that begin at ``places``; zeros where a line does not exist."""
    dims = tl.arange(0, shape.padded_dim)
    mask = inside[:, None] & (dims < shape.head_dim)[None, :]
    return tl.load(query + places[:, None] + dims[None, :], mask=mask, other=0.0)


@triton.jit
def nothing_yet(shape: tl.constexpr) -> tl.tuple:
    top = tl.full((shape.num_lines,), float("-inf"), tl.float32)
    total = tl.full((shape.num_lines,), 0.0, tl.float32)
    return top, total, tl.full((shape.num_lines, shape.padded_dim), 0.0, tl.float32)


@triton.jit
def _load_block_ids(
    table: tl.tensor, first: tl.tensor, end: tl.tensor, shape: tl.constexpr
) -> tl.tensor:
    """The blocks of the tile of keys from ``first`` on: one where it lies in one, else by key.

    ``first`` is a multiple of ``num_keys``; what lies at ``end`` or after it is not read.
    """
    if shape.block_size % shape.num_keys == 0:
        block_ids = tl.load(table + first // shape.block_size, mask=first < end, other=0)
    else:
        keys = tl.arange(0, shape.num_keys)
        if shape.num_keys % shape.block_size == 0:
            places = first // shape.block_size + keys // shape.block_size
        else:
            places = (first + keys) // shape.block_size
        block_ids = tl.load(table + places, mask=first + keys < end, other=0)
    return block_ids


@triton.jit
def _key_places(block_ids: tl.tensor, first: tl.tensor, shape: tl.constexpr) -> tl.tensor:
    """Where the keys of a tile begin, from the KV head's place in block 0.

    Where a tile holds whole blocks the places within them are the same in every tile.
    """
    keys = tl.arange(0, shape.num_keys)
    if shape.block_size % shape.num_keys == 0:
        offsets = first % shape.block_size + keys
    elif shape.num_keys % shape.block_size == 0:
        offsets = keys % shape.block_size
    else:
        offsets = (first + keys) % shape.block_size
    block_numbers: tl.constexpr = shape.num_kv_heads * shape.block_size * shape.head_dim
    return block_ids.to(tl.int64) * block_numbers + offsets * shape.head_dim


@triton.jit
def _load_keys_and_values(
    cache: tl.tuple,
    block_ids: tl.tensor,
    first: tl.tensor,
    end: tl.tensor,
    shape: tl.constexpr,
    is_masked: tl.constexpr,
) -> tl.tuple:
    """``[D, keys]`` and ``[keys, D]``; zeros for keys from ``end`` on, which only a mask allows."""
    dims = tl.arange(0, shape.padded_dim)
    places = _key_places(block_ids, first, shape)
    key_pointers = cache[0] + places[None, :] + dims[:, None]
    value_pointers = cache[1] + places[:, None] + dims[None, :]
    if is_masked or shape.head_dim != shape.padded_dim:
        exists = first + tl.arange(0, shape.num_keys) < end
        inside = dims < shape.head_dim
        keys = tl.load(key_pointers, mask=exists[None, :] & inside[:, None], other=0.0)
        values = tl.load(value_pointers, mask=exists[:, None] & inside[None, :], other=0.0)
    else:
        keys, values = tl.load(key_pointers), tl.load(value_pointers)
    return keys, values


@triton.jit
def attend(
    query: tl.tensor,
    cache: tl.tuple,
    view: tl.tuple,
    state: tl.tuple,
    shape: tl.constexpr,
    is_masked: tl.constexpr,
) -> tl.tuple:
    """Take in the keys and values from ``begin``, a multiple of ``num_keys``, to ``end``.

    ``cache`` is the KV head's keys and values and the row's block table; ``view`` the lines'
    positions, the scale, ``begin`` and ``end``. Without a mask every line sees all keys, and they
    are whole tiles. The largest score is found before scaling, so the scale must be above zero.
    """
    positions, scale, begin, end = view
    top, total, mixed = state
    if shape.looks_ahead:
        next_ids = _load_block_ids(cache[2], begin, end, shape)
    for first in range(begin, end, shape.num_keys):
        if shape.looks_ahead:
            block_ids = next_ids
            next_ids = _load_block_ids(cache[2], first + shape.num_keys, end, shape)
        else:
            block_ids = _load_block_ids(cache[2], first, end, shape)
        keys, values = _load_keys_and_values(cache, block_ids, first, end, shape, is_masked)
        scores = tl.dot(query, keys, input_precision=shape.precision)
        if is_masked:
            keys_at = (first + tl.arange(0, shape.num_keys))[None, :]
            visible = (keys_at < end) & (keys_at <= positions[:, None])
            if shape.window > 0:
                visible &= keys_at > positions[:, None] - shape.window
            scores = tl.where(visible, scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1) * scale)
        finite_top = new_top
        if shape.window > 0:  # it may hide all of a first tile from some lines
            finite_top = tl.where(new_top == float("-inf"), 0.0, new_top)
        weights = tl.exp2(scores * scale - finite_top[:, None])
        shrink = tl.exp2(top - finite_top)
        total = total * shrink + tl.sum(weights, 1)
        mixed = tl.dot(
            weights.to(values.dtype),
            values,
            mixed * shrink[:, None],
            input_precision=shape.precision,
        )
        top = new_top
    return top, total, mixed


@triton.jit
def store_output(
    output: tl.tensor, places: tl.tensor, inside: tl.tensor, state: tl.tuple, shape: tl.constexpr
) -> None:
    """The mean of the values by weight; zeros where nothing was seen."""
    _, total, mixed = state
    dims = tl.arange(0, shape.padded_dim)
    mask = inside[:, None] & (dims < shape.head_dim)[None, :]
    mean = mixed / tl.where(total > 0, total, 1.0)[:, None]
    pointers = output + places[:, None] + dims[None, :]
    tl.store(pointers, mean.to(output.dtype.element_ty), mask=mask)
