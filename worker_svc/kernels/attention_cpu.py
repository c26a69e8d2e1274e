"""Ragged paged attention for CPUs, compiled by Numba; it reads the blocks where they lie.

A task is (row, tile of its queries, KV head). It takes all the query heads of that KV head
together, so that a key or value is read once for them. Softmax runs online over tiles of keys
(Milakov and Gimelshein, "Online normalizer calculation for softmax"; Dao et al.,
"FlashAttention", section 3.1).

Tiles of keys are cut at multiples of their size counted from position 0, and a query's arithmetic
does not look at its neighbours in a tile: bit for bit the same output in any batch and chunking.

Numba is imported with this module, so only the selection of the CPU kernels imports it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from numba import prange
from numba.core import types
from numba.extending import overload
from torch import Tensor

from worker_svc.kernels.attention import check_attention
from worker_svc.kernels.compiled import Array, available_threads, compiled, exp
from worker_svc.kernels.ragged import Ragged

MIN_KEYS_PER_TILE = 64
MAX_LINES_PER_TILE = 48
# Numba computes in neither: it gets their bits, in types that tell one from the other.
BITS = {torch.bfloat16: torch.uint16, torch.float16: torch.int16}


class Paged(NamedTuple):
    """The arrays of one launch, as ``Ragged`` and ``paged_attention`` describe them."""

    query: Array
    k_cache: Array
    v_cache: Array
    block_tables: Array
    row_ids: Array
    query_starts: Array
    context_lens: Array
    output: Array


class Tile(NamedTuple):
    """A thread's working memory. A line is one (query token, query head) of the task at hand."""

    queries: Array  # [lines, D], scaled
    mixed: Array  # [lines, D], values weighted so far
    scores: Array  # [lines, keys], of the present tile of keys
    top: Array  # [lines], largest score so far
    total: Array  # [lines], sum of the weights so far
    first: Array  # [lines], first visible key of the present tile
    last: Array  # [lines], one past the last visible key
    wide: Array  # [keys, D], keys or values of one block, where the cache's have 16 bits


def paged_attention_cpu(
    query: Tensor, k_cache: Tensor, v_cache: Tensor, ragged: Ragged, scale: float, window: int
) -> Tensor:
    """``paged_attention`` (see ``Kernels``) for any floating dtype; 16 bits are widened.

    Runs on ``torch.get_num_threads()`` threads. Not to be called from two threads at once:
    Numba's fallback thread pool does not allow it.
    """
    check_attention(query, k_cache, v_cache, ragged)
    wide = query.to(torch.promote_types(query.dtype, torch.float32)).contiguous()
    output = torch.empty(wide.shape, dtype=wide.dtype)
    caches = (cache.view(BITS.get(cache.dtype, cache.dtype)) for cache in (k_cache, v_cache))
    tensors = (
        wide,
        *caches,
        ragged.block_tables.contiguous(),
        ragged.row_ids,
        ragged.query_starts,
        ragged.context_lens,
        output,
    )
    arrays = Paged(*(tensor.detach().numpy() for tensor in tensors))
    typed_scale = arrays.query.dtype.type(scale)
    num_threads = available_threads()
    if num_threads == 1:  # no parallel region: its barrier costs more than a small step
        _attend_serially(arrays, typed_scale, window)
    else:
        numba.set_num_threads(num_threads)
        _attend_in_parallel(arrays, typed_scale, window, num_threads)
    return output.to(query.dtype)


def _widened(block: Any, wide: Any) -> Any:
    """A block's numbers ``[N, D]`` to compute with, in ``wide`` if need be; compiled code only."""
    raise NotImplementedError


@overload(_widened, strict=False)  # type: ignore[untyped-decorator]
def _widened_overload(block: Any, wide: Any) -> Callable[[Any, Any], Any]:
    if block.dtype == wide.dtype:
        return _unchanged
    return _from_bfloat16 if block.dtype == types.uint16 else _from_float16


def _unchanged(block: Any, _wide: Any) -> Any:
    return block


def _from_bfloat16(block: Any, wide: Any) -> Any:
    for j in range(block.shape[0]):
        for d in range(block.shape[1]):
            bits = np.uint32(np.uint32(block[j, d]) << np.uint32(16))
            wide[j, d] = bits.view(np.float32)
    return wide[: block.shape[0]]


def _from_float16(block: Any, wide: Any) -> Any:
    """The exponent moves to its bits and is corrected by 2**112, which normalises as well."""
    for j in range(block.shape[0]):
        for d in range(block.shape[1]):
            bits = np.int32(block[j, d])
            magnitude = np.int32((bits & np.int32(0x7FFF)) << np.int32(13))
            number = magnitude.view(np.float32) * np.float32(2.0**112)
            if bits & np.int32(0x7C00) == np.int32(0x7C00):  # an infinity or a NaN
                number = np.int32(magnitude | np.int32(0x7F800000)).view(np.float32)
            wide[j, d] = -number if bits < 0 else number
    return wide[: block.shape[0]]


@compiled(parallel=True)
def _attend_in_parallel(arrays: Paged, scale: Any, window: int, num_threads: int) -> None:
    tasks, costs = _plan(arrays)
    for thread in prange(num_threads):
        # Equal parts of the cost; a task belongs to the part in which it begins.
        begin = np.searchsorted(costs, costs[-1] * thread / num_threads)
        end = np.searchsorted(costs, costs[-1] * (thread + 1) / num_threads)
        _attend_tasks(arrays, tasks[begin : min(end, tasks.shape[0])], scale, window)


@compiled()
def _attend_serially(arrays: Paged, scale: Any, window: int) -> None:
    tasks, _ = _plan(arrays)
    _attend_tasks(arrays, tasks, scale, window)


@compiled()
def _attend_tasks(arrays: Paged, tasks: Array, scale: Any, window: int) -> None:
    group, block_size = _group_size(arrays), arrays.k_cache.shape[2]
    num_keys = -(-MIN_KEYS_PER_TILE // block_size) * block_size
    tile = _new_tile(arrays.query, max(group, MAX_LINES_PER_TILE), num_keys)
    for i in range(tasks.shape[0]):
        _attend_task(arrays, tasks[i], tile, scale, window)


@compiled()
def _group_size(arrays: Paged) -> int:
    """Query heads of one KV head."""
    group: int = arrays.query.shape[1] // arrays.k_cache.shape[1]
    return group


@compiled()
def _plan(arrays: Paged) -> tuple[Array, Array]:
    """Tasks as ``[N, 4]`` (row, KV head, first token, one past the last); cost before each."""
    starts, num_kv_heads = arrays.query_starts, arrays.k_cache.shape[1]
    max_queries = max(1, MAX_LINES_PER_TILE // _group_size(arrays))
    num_rows = arrays.row_ids.shape[0]
    num_tiles = 0
    for row in range(num_rows):
        num_tiles += -(-(starts[row + 1] - starts[row]) // max_queries)
    tasks = np.empty((num_tiles * num_kv_heads, 4), np.int64)
    costs = np.zeros(num_tiles * num_kv_heads + 1, np.int64)
    i = 0
    for row in range(num_rows):
        for start in range(starts[row], starts[row + 1], max_queries):
            end = min(start + max_queries, starts[row + 1])
            for head in range(num_kv_heads):
                tasks[i, 0], tasks[i, 1], tasks[i, 2], tasks[i, 3] = row, head, start, end
                costs[i + 1] = costs[i] + (end - start) * arrays.context_lens[row]
                i += 1
    return tasks, costs


@compiled()
def _new_tile(query: Array, num_lines: int, num_keys: int) -> Tile:
    return Tile(
        np.empty((num_lines, query.shape[2]), query.dtype),
        np.empty((num_lines, query.shape[2]), query.dtype),
        np.empty((num_lines, num_keys + 3), query.dtype),
        np.empty(num_lines, query.dtype),
        np.empty(num_lines, query.dtype),
        np.empty(num_lines, np.int64),
        np.empty(num_lines, np.int64),
        np.empty((num_keys, query.shape[2]), query.dtype),
    )


@compiled()
def _attend_task(arrays: Paged, task: Array, tile: Tile, scale: Any, window: int) -> None:
    row, head, start, end = task
    block_size = arrays.k_cache.shape[2]
    num_keys = tile.scores.shape[1] - 3
    group = _group_size(arrays)
    num_lines = (end - start) * group
    position = arrays.context_lens[row] - arrays.query_starts[row + 1] + start
    stop = position + end - start
    table = arrays.block_tables[arrays.row_ids[row]]
    _begin(arrays.query[start:end, head * group : (head + 1) * group], tile, scale)
    oldest = max(0, position - window + 1) if window > 0 else 0
    for base in range(oldest // num_keys * num_keys, stop, num_keys):
        count = min(num_keys, stop - base)
        for line in range(num_lines):
            at = position + line // group - base
            tile.last[line] = min(count, at + 1)
            tile.first[line] = max(0, at - window + 1) if window > 0 else 0
        for j in range(0, count, block_size):
            block = arrays.k_cache[table[(base + j) // block_size], head, : count - j]
            _score(tile.queries, tile.scores, num_lines, _widened(block, tile.wide), j)
        _weigh(tile, num_lines, count)
        for j in range(0, count, block_size):
            block = arrays.v_cache[table[(base + j) // block_size], head, : count - j]
            _mix(tile.scores, tile.mixed, num_lines, _widened(block, tile.wide), j)
    for line in range(num_lines):
        out = arrays.output[start + line // group, head * group + line % group]
        total = tile.total[line] if stop > 0 else 1  # without a context nothing was seen
        for d in range(out.shape[0]):
            out[d] = tile.mixed[line, d] / total


@compiled()
def _begin(query: Array, tile: Tile, scale: Any) -> None:
    for token in range(query.shape[0]):
        for head in range(query.shape[1]):
            line = token * query.shape[1] + head
            tile.top[line] = -np.inf
            tile.total[line] = 0
            for d in range(query.shape[2]):
                tile.queries[line, d] = query[token, head, d] * scale
                tile.mixed[line, d] = 0


@compiled()
def _score(queries: Array, scores: Array, num_lines: int, keys: Array, at: int) -> None:
    """Scores of one block's keys, four at a time: a query is loaded once for four sums.

    The last group repeats the last key and writes up to three scores too many; the next block,
    or the range of visible keys, puts that right.
    """
    final = keys.shape[0] - 1
    for j0 in range(0, final + 1, 4):
        j1, j2, j3 = min(j0 + 1, final), min(j0 + 2, final), min(j0 + 3, final)
        for line in range(num_lines):
            sum0 = sum1 = sum2 = sum3 = queries.dtype.type(0)
            for d in range(queries.shape[1]):
                query = queries[line, d]
                sum0 += query * keys[j0, d]
                sum1 += query * keys[j1, d]
                sum2 += query * keys[j2, d]
                sum3 += query * keys[j3, d]
            scores[line, at + j0] = sum0
            scores[line, at + j0 + 1] = sum1
            scores[line, at + j0 + 2] = sum2
            scores[line, at + j0 + 3] = sum3


@compiled()
def _weigh(tile: Tile, num_lines: int, count: int) -> None:
    """Turn a tile's scores into weights relative to the largest so far; zero the unseen."""
    scores, mixed = tile.scores, tile.mixed
    for line in range(num_lines):
        first, last = tile.first[line], tile.last[line]
        for j in range(min(first, count)):
            scores[line, j] = 0
        for j in range(max(0, last), count):
            scores[line, j] = 0
        if first >= last:
            continue
        top = tile.top[line]
        for j in range(first, last):
            top = max(top, scores[line, j])
        if top > tile.top[line]:
            shrink = exp(tile.top[line] - top)
            tile.total[line] *= shrink
            for d in range(mixed.shape[1]):
                mixed[line, d] *= shrink
            tile.top[line] = top
        total = scores.dtype.type(0)
        for j in range(first, last):
            weight = exp(scores[line, j] - top)
            scores[line, j] = weight
            total += weight
        tile.total[line] += total


@compiled()
def _mix(weights: Array, mixed: Array, num_lines: int, values: Array, at: int) -> None:
    """Add one block's values by their weights, four at a time: a sum is loaded once for four."""
    final = values.shape[0] - 1
    none = weights.dtype.type(0)
    for j0 in range(0, final + 1, 4):
        j1, j2, j3 = min(j0 + 1, final), min(j0 + 2, final), min(j0 + 3, final)
        for line in range(num_lines):
            weight0 = weights[line, at + j0]
            weight1 = weights[line, at + j0 + 1] if j0 + 1 <= final else none
            weight2 = weights[line, at + j0 + 2] if j0 + 2 <= final else none
            weight3 = weights[line, at + j0 + 3] if j0 + 3 <= final else none
            for d in range(mixed.shape[1]):
                mixed[line, d] += (
                    weight0 * values[j0, d]
                    + weight1 * values[j1, d]
                    + weight2 * values[j2, d]
                    + weight3 * values[j3, d]
                )
