"""Ragged paged attention in Triton: a kernel for chunks of prompts, one for decodes.

Both hold in one tile the query heads of one KV head times some of a row's tokens, and read keys and
values through the block table (the tile of grouped heads is that of vLLM's unified attention, arXiv
2511.11581, section 4.3). Rows with one token go to the decode kernel, whatever else is in the step.
Neither the tiles nor the order of sums depend on the other rows, so nor does a row's output.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from worker_svc.kernels.attention import check_attention
from worker_svc.kernels.attention_chunk_triton import chunk_kernel
from worker_svc.kernels.attention_decode_triton import MAX_SEGMENTS, decode_kernel
from worker_svc.kernels.attention_tiles import MAX_HEAD_DIM, ChunkTile, DecodeTile, Tiles, tiles_for
from worker_svc.kernels.early_triton import starts_early
from worker_svc.kernels.ragged import Ragged

LOG2_E = math.log2(math.e)  # the kernels compute in powers of two
# Where contexts are split, until so many programs are there for each multiprocessor.
SPLIT_PROGRAMS_PER_SM = 4
# Pairs of a row and a KV head that are split; devices of so many multiprocessors there are not.
MAX_SPLIT = 4096
# A program keeps more loads in flight where fewer share a multiprocessor: measured on an H200, two
# stages more where 2 do take 132 us where none take 150 (32 rows of 4,096); where 4 do, one more
# takes 82 us and none 68 (64 rows of 1,024).
FEW_PROGRAMS_PER_SM = 2
STAGES_MORE = 2
# What the states of all segments of a step may take, else its rows are not split.
MAX_PARTIALS_BYTES = 64 << 20


class Shape(NamedTuple):
    """What a kernel of attention is compiled for."""

    num_kv_heads: int
    group: int
    head_dim: int
    padded_dim: int
    block_size: int
    window: int
    precision: str
    num_lines: int
    num_keys: int
    looks_ahead: bool
    segment_len: int = 0
    overlaps: bool = False


class AttentionCall(NamedTuple):
    """The arguments of ``paged_attention``, see ``Kernels``."""

    query: Tensor
    k_cache: Tensor
    v_cache: Tensor
    ragged: Ragged
    scale: float
    window: int


def paged_attention_triton(
    query: Tensor, k_cache: Tensor, v_cache: Tensor, ragged: Ragged, scale: float, window: int
) -> Tensor:
    """``paged_attention`` (see ``Kernels``) for bfloat16, float16 and float32.

    Sums are in float32; float32 inputs are multiplied as IEEE numbers, not as TF32. Tokens past
    ``query_starts[R]`` are left undefined, those of a row without context are zero. Reads nothing
    back from the device.
    """
    call = AttentionCall(query, k_cache, v_cache, ragged, scale, window)
    return attend_paged(call, tiles_for(_card(query.device), query.element_size(), query.shape[2]))


def attend_paged(call: AttentionCall, tiles: Tiles) -> Tensor:
    """``paged_attention_triton`` with tiles of one's own, to measure them."""
    query = call.query
    check_attention(query, call.k_cache, call.v_cache, call.ragged)
    assert query.dtype in (torch.bfloat16, torch.float16, torch.float32)
    assert query.shape[2] <= MAX_HEAD_DIM
    assert call.scale > 0
    output = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    if call.ragged.max_query_len > 1:
        _attend_chunks(call, output, tiles.chunk)
    _attend_decodes(call, output, tiles.decode)
    return output


def _attend_chunks(call: AttentionCall, output: Tensor, tile: ChunkTile) -> None:
    query, ragged = call.query, call.ragged
    shape = _shape(call, tile, tile.num_lines)._replace(overlaps=tile.overlaps)
    num_tiles = query.shape[0] // (shape.num_lines // shape.group) + ragged.num_rows
    chunk_kernel[(num_tiles * shape.num_kv_heads,)](
        query,
        query.stride(0),
        query.stride(1),
        call.k_cache,
        call.v_cache,
        ragged.block_tables,
        ragged.block_tables.stride(0),
        ragged.row_ids,
        ragged.query_starts,
        ragged.context_lens,
        ragged.num_rows,
        call.scale * LOG2_E,
        output,
        shape,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        enable_fp_fusion=True,
    )


def _attend_decodes(call: AttentionCall, output: Tensor, tile: DecodeTile) -> None:
    query, ragged = call.query, call.ragged
    shape = _shape(call, tile, 16)
    shape = shape._replace(segment_len=tile.segment_len)
    num_segments = min(MAX_SEGMENTS.value, -(-ragged.max_context_len // shape.segment_len))
    num_parts = _num_parts(call, num_segments, tile)
    lines = (ragged.num_rows, query.shape[1], num_segments, shape.head_dim + 2)
    partials = torch.empty(lines if num_parts > 1 else 0, dtype=torch.float32, device=query.device)
    decode_kernel[(ragged.num_rows * shape.num_kv_heads, num_parts)](
        query,
        query.stride(0),
        query.stride(1),
        call.k_cache,
        call.v_cache,
        ragged.block_tables,
        ragged.block_tables.stride(0),
        ragged.row_ids,
        ragged.query_starts,
        ragged.context_lens,
        num_segments,
        call.scale * LOG2_E,
        output,
        partials,
        _counters(query.device),
        shape,
        starts_early(query),
        launch_pdl=starts_early(query),
        num_warps=tile.num_warps,
        num_stages=_num_stages(ragged.num_rows * shape.num_kv_heads * num_parts, query, tile),
        enable_fp_fusion=True,
    )


def _num_parts(call: AttentionCall, num_segments: int, tile: DecodeTile) -> int:
    """Into how many parts a row's segments are split, a program each; no output depends on it.

    Rows that fill the device are left whole; so are all where the segments' states find no room.
    """
    num_rows, num_heads, head_dim = call.ragged.num_rows, call.query.shape[1], call.query.shape[2]
    if num_rows * num_heads * num_segments * (head_dim + 2) * 4 > MAX_PARTIALS_BYTES:
        return 1
    num_programs, num_sms = num_rows * call.k_cache.shape[1], _num_sms(call.query.device)
    if num_programs >= min(tile.programs_per_sm * num_sms, MAX_SPLIT):
        return 1
    return min(-(-SPLIT_PROGRAMS_PER_SM * num_sms // num_programs), num_segments)


@cache
def _counters(device: torch.device) -> Tensor:
    """Zeros whenever no attention runs: a device's kernels run one after another."""
    return torch.zeros(MAX_SPLIT, dtype=torch.int32, device=device)


def _num_stages(num_programs: int, query: Tensor, tile: DecodeTile) -> int:
    """More than ``tile`` says where few programs share a multiprocessor; it decides no bits."""
    if num_programs > FEW_PROGRAMS_PER_SM * _num_sms(query.device):
        return tile.num_stages
    return max(tile.num_stages, min(tile.num_stages + STAGES_MORE, tile.max_stages))


def _shape(call: AttentionCall, tile: ChunkTile | DecodeTile, num_lines: int) -> Shape:
    _, num_kv_heads, block_size, head_dim = call.k_cache.shape
    group = call.query.shape[1] // num_kv_heads
    return Shape(
        num_kv_heads=num_kv_heads,
        group=group,
        head_dim=head_dim,
        padded_dim=max(16, triton.next_power_of_2(head_dim)),
        block_size=block_size,
        window=call.window,
        precision="ieee" if call.query.dtype == torch.float32 else "tf32",
        num_lines=max(num_lines, triton.next_power_of_2(group)),
        num_keys=tile.num_keys,
        looks_ahead=tile.looks_ahead,
    )


@cache
def _card(device: torch.device) -> str:
    """The device's name; "" for a CPU, where the interpreter runs."""
    return str(torch.cuda.get_device_name(device)) if device.type == "cuda" else ""


@cache
def _num_sms(device: torch.device) -> int:
    """The device's multiprocessors; in the interpreter as many as split small examples too."""
    if device.type != "cuda":
        return 8
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
