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
    query: tl.tensor, offsets: tl.tensor, inside: tl.tensor, shape: tl.constexpr
) -> tl.tensor:
    """The queries that begin at ``offsets``; zeros where a line does not exist."""
    dims = tl.arange(0, shape.padded_dim)
    mask = inside[:, None] & (dims < shape.head_dim)[None, :]
    return tl.load(query + offsets[:, None] + dims[None, :], mask=mask, other=0.0)


@triton.jit
def nothing_yet(shape: tl.constexpr) -> tl.tuple:
    top = tl.full((shape.num_lines,), float("-inf"), tl.float32)
    total = tl.full((shape.num_lines,), 0.0, tl.float32)
    return top, total, tl.full((shape.num_lines, shape.padded_dim), 0.0, tl.float32)


@triton.jit
def _load_block_ids(
    table: tl.tensor, first: tl.tensor, end: tl.tensor, shape: tl.constexpr
) -> tl.tuple:
    """The blocks of the tile of keys from ``first`` on, one number each; by key if they don't fit.

    ``first`` is a multiple of ``num_keys``. What lies at ``end`` or after it is not read.
    """
    if shape.num_keys % shape.block_size == 0 or shape.block_size % shape.num_keys == 0:
        num_blocks: tl.constexpr = max(shape.num_keys // shape.block_size, 1)
        block_ids = ()
        for i in tl.static_range(num_blocks):
            key = first + i * shape.block_size
            block_id = tl.load(table + key // shape.block_size, mask=key < end, other=0)
            block_ids = block_ids + (block_id,)  # type: ignore[assignment]  # noqa: RUF005
    else:
        keys = first + tl.arange(0, shape.num_keys)
        block_id = tl.load(table + keys // shape.block_size, mask=keys < end, other=0)
        block_ids = (block_id,)  # type: ignore[assignment]
    return block_ids


@triton.jit
def _key_offsets(block_ids: tl.tuple, first: tl.tensor, shape: tl.constexpr) -> tl.tensor:
    """Where the keys of a tile begin, counted from the KV head's keys in block 0.

    Which of a tile's blocks a key lies in is known as the kernel is compiled.
    """
    keys = tl.arange(0, shape.num_keys)
    if shape.num_keys % shape.block_size == 0:
        within = keys % shape.block_size
    else:
        within = (first + keys) % shape.block_size
    block_numbers: tl.constexpr = shape.num_kv_heads * shape.block_size * shape.head_dim
    begins = block_ids[0].to(tl.int64) * block_numbers + keys * 0
    num_blocks: tl.constexpr = len(block_ids)
    for i in tl.static_range(1, num_blocks):
        begin = block_ids[i].to(tl.int64) * block_numbers
        begins = tl.where(keys >= i * shape.block_size, begin, begins)
    return begins + within * shape.head_dim


@triton.jit
def _load_keys(
    k_cache: tl.tensor, block_ids: tl.tuple, first: tl.tensor, shape: tl.constexpr
) -> tl.tensor:
    """``[D, keys]``. Past the context they are whatever lies there, NaN perhaps."""
    dims = tl.arange(0, shape.padded_dim)
    pointers = k_cache + _key_offsets(block_ids, first, shape)[None, :] + dims[:, None]
    if shape.head_dim == shape.padded_dim:
        keys = tl.load(pointers)
    else:
        keys = tl.load(pointers, mask=(dims < shape.head_dim)[:, None], other=0.0)
    return keys


@triton.jit
def _load_values(
    v_cache: tl.tensor,
    block_ids: tl.tuple,
    first: tl.tensor,
    end: tl.tensor,
    shape: tl.constexpr,
    is_masked: tl.constexpr,
) -> tl.tensor:
    """``[keys, D]``; with a mask zeros from ``end`` on."""
    dims = tl.arange(0, shape.padded_dim)
    inside = (dims < shape.head_dim)[None, :]
    pointers = v_cache + _key_offsets(block_ids, first, shape)[:, None] + dims[None, :]
    if is_masked:
        exists = first + tl.arange(0, shape.num_keys) < end
        values = tl.load(pointers, mask=exists[:, None] & inside, other=0.0)
    elif shape.head_dim == shape.padded_dim:
        values = tl.load(pointers)
    else:
        values = tl.load(pointers, mask=inside, other=0.0)
    return values


@triton.jit
def _weigh(scores: tl.tensor, scale: float, state: tl.tuple, shape: tl.constexpr) -> tl.tuple:
    """The weights of a tile's keys, and the state with all of them but their values.

    The largest score is found before scaling, so the scale must be above zero.
    """
    top, total, mixed = state
    new_top = tl.maximum(top, tl.max(scores, 1) * scale)
    finite_top = new_top
    if shape.window > 0:  # it may hide all of a first tile from some lines
        finite_top = tl.where(new_top == float("-inf"), 0.0, new_top)
    weights = tl.exp2(scores * scale - finite_top[:, None])
    shrink = tl.exp2(top - finite_top)
    total = total * shrink + tl.sum(weights, 1)
    return weights, (new_top, total, mixed * shrink[:, None])


@triton.jit
def _mix(weights: tl.tensor, values: tl.tensor, state: tl.tuple, shape: tl.constexpr) -> tl.tuple:
    top, total, mixed = state
    mixed = tl.dot(weights.to(values.dtype), values, mixed, input_precision=shape.precision)
    return top, total, mixed


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
    are whole tiles.
    """
    positions, scale, begin, end = view
    if shape.looks_ahead:
        next_ids = _load_block_ids(cache[2], begin, end, shape)
    for first in range(begin, end, shape.num_keys):
        if shape.looks_ahead:
            block_ids = next_ids
            next_ids = _load_block_ids(cache[2], first + shape.num_keys, end, shape)
        else:
            block_ids = _load_block_ids(cache[2], first, end, shape)
        keys = _load_keys(cache[0], block_ids, first, shape)
        scores = tl.dot(query, keys, input_precision=shape.precision)
        if is_masked:
            keys_at = (first + tl.arange(0, shape.num_keys))[None, :]
            visible = (keys_at < end) & (keys_at <= positions[:, None])
            if shape.window > 0:
                visible &= keys_at > positions[:, None] - shape.window
            scores = tl.where(visible, scores, float("-inf"))
        values = _load_values(cache[1], block_ids, first, end, shape, is_masked)
        weights, state = _weigh(scores, scale, state, shape)
        state = _mix(weights, values, state, shape)
    return state


@triton.jit
def attend_overlapped(
    query: tl.tensor, cache: tl.tuple, view: tl.tuple, state: tl.tuple, shape: tl.constexpr
) -> tl.tuple:
    """``attend`` without a mask, where the product that gives a tile's scores runs beside the
    softmax of the tile before it (Shah et al., "FlashAttention-3", section 3.2).

    A round ends the tile before its own, so that its first product is waited for and the second is
    not: Triton lets a product run on only if what uses it comes after a wait of the next round. The
    weights go on as float32: what goes on in 16 bits would be multiplied from shared memory.
    """
    _, scale, begin, end = view
    table, num_keys = cache[2], shape.num_keys
    if begin < end:
        value_ids = _load_block_ids(table, begin, end, shape)
        keys = _load_keys(cache[0], value_ids, begin, shape)
        scores = tl.dot(query, keys, input_precision=shape.precision)
        weights, state = _weigh(scores, scale, state, shape)
        key_ids = _load_block_ids(table, begin + num_keys, end, shape)
        keys = _load_keys(cache[0], key_ids, begin + num_keys, shape)
        scores = tl.dot(query, keys, input_precision=shape.precision)
        key_ids = _load_block_ids(table, begin + 2 * num_keys, end, shape)
        for first in range(begin + num_keys, end, num_keys):
            values = _load_values(cache[1], value_ids, first - num_keys, end, shape, False)
            state = _mix(weights, values, state, shape)
            keys = _load_keys(cache[0], key_ids, first + num_keys, shape)
            next_scores = tl.dot(query, keys, input_precision=shape.precision)
            weights, state = _weigh(scores, scale, state, shape)
            scores = next_scores
            value_ids = _load_block_ids(table, first, end, shape)
            key_ids = _load_block_ids(table, first + 2 * num_keys, end, shape)
        values = _load_values(cache[1], value_ids, end - num_keys, end, shape, False)
        state = _mix(weights, values, state, shape)
    return state


@triton.jit
def store_output(
    output: tl.tensor, offsets: tl.tensor, inside: tl.tensor, state: tl.tuple, shape: tl.constexpr
) -> None:
    """The mean of the values by weight; zeros where nothing was seen."""
    _, total, mixed = state
    dims = tl.arange(0, shape.padded_dim)
    mask = inside[:, None] & (dims < shape.head_dim)[None, :]
    mean = mixed / tl.where(total > 0, total, 1.0)[:, None]
    pointers = output + offsets[:, None] + dims[None, :]
    tl.store(pointers, mean.to(output.dtype.element_ty), mask=mask)
