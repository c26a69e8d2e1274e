"""The sampler as one launch: a program for each row of logits, which reads nothing of the others.

One pass finds the likeliest token; a row that draws without a cut takes another pass and one tile;
a cut by min_p alone the same; by top_k one that gathers the candidates, and then draws from them;
by top_p alone one more for the mass of all. See ``sampling_cut_triton`` for rows so flat that the
candidates are too many: those take some passes more.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from worker_svc.core.needs import StepNeeds
from worker_svc.kernels import record as _record
from worker_svc.kernels.choice import Choice, Logprobs, SampledRows, SamplingTable
from worker_svc.kernels.penalties_triton import adjust_kernel
from worker_svc.kernels.sampling_cut_triton import held_scores, key_of, raise_cut, score_of
from worker_svc.kernels.sampling_row_triton import (
    MAX_SCORE,
    draw_from_row,
    find_peak,
    pick,
    scores_at,
    tile_masses,
    tile_offsets,
    total,
    weights_of,
)
from worker_svc.kernels.scratch import Scratch

SEED_LOW = tl.constexpr(_record.SEED_LOW)
SEED_HIGH = tl.constexpr(_record.SEED_HIGH)
INDEX = tl.constexpr(_record.INDEX)
TOP_K = tl.constexpr(_record.TOP_K)
TEMPERATURE = tl.constexpr(_record.TEMPERATURE)
TOP_P = tl.constexpr(_record.TOP_P)
MIN_P = tl.constexpr(_record.MIN_P)
NUM_LOGPROBS = tl.constexpr(_record.NUM_LOGPROBS)
NUM_PROMPT_TOKENS = tl.constexpr(_record.NUM_PROMPT_TOKENS)
LOG2_E = tl.constexpr(1.4426950408889634)

ADJUST_BLOCK = 4096
# Bits of a float32 in which two numbers of a shorter type never differ.
SHIFTS = {torch.bfloat16: 16, torch.float16: 13, torch.float32: 0}


@dataclass(frozen=True, slots=True)
class Tiles:
    """How a program passes over a row: ``rows * cols`` tokens at a time, which fit its registers.

    As many candidates of a cut are held at most. On a GPU a thread has a row or some.
    """

    rows: int
    cols: int
    num_warps: int


# A thread's neighbours are 16 bytes; with a cut it has no registers for so many of 16 bits.
NARROW_TILES = Tiles(rows=512, cols=4, num_warps=16)
WIDE_TILES = Tiles(rows=512, cols=8, num_warps=16)


def choose_triton(
    logits: Tensor,
    sampled: SampledRows,
    table: SamplingTable,
    needs: StepNeeds,
    scratch: Scratch,
    tiles: Tiles | None = None,
) -> Choice:
    """``choose_reference``: one launch, and one more where a row has penalties or a bias."""
    assert logits.stride(1) == 1
    if needs.penalties or needs.bias:
        logits = _adjusted(logits, sampled, table, scratch)
    num_rows, vocab_size = logits.shape
    if tiles is None:
        tiles = NARROW_TILES if needs.cut or logits.dtype == torch.float32 else WIDE_TILES
    token_ids, is_finite = torch.empty((2, num_rows), dtype=torch.int32, device=logits.device)
    has_logprobs = needs.num_logprobs >= 0
    logprobs = logits.new_empty((num_rows, 2) if has_logprobs else 0, dtype=torch.float32)
    num_held = 2 * tiles.rows * tiles.cols * _most_rows(num_rows, table) if needs.cut else 0
    choose_kernel[(num_rows,)](
        logits,
        logits.stride(0),
        sampled.row_ids,
        sampled.positions,
        table.records,
        token_ids,
        is_finite,
        logprobs,
        scratch.get("held", (num_held,), torch.int32),
        VOCAB=vocab_size,
        RECORD_WORDS=table.records.shape[1],
        ROWS=tiles.rows,
        COLS=tiles.cols,
        TILES=triton.next_power_of_2(triton.cdiv(vocab_size, tiles.rows * tiles.cols)),
        SHIFT=SHIFTS[logits.dtype],
        DRAW=needs.draw,
        CUT=needs.cut,
        LOGPROBS=has_logprobs,
        num_warps=tiles.num_warps,
    )
    if not has_logprobs:
        return Choice(token_ids, is_finite)
    top = logits.topk(min(needs.num_logprobs, vocab_size))
    top_logprobs = top.values.float() - logprobs[:, 1:]
    return Choice(token_ids, is_finite, Logprobs(logprobs[:, 0], top.indices.int(), top_logprobs))


def _adjusted(
    logits: Tensor, sampled: SampledRows, table: SamplingTable, scratch: Scratch
) -> Tensor:
    num_rows, vocab_size = logits.shape
    shape = (_most_rows(num_rows, table), vocab_size)
    scores = scratch.get("scores", shape, torch.float32)
    adjust_kernel[(num_rows,)](
        logits,
        logits.stride(0),
        sampled.row_ids,
        sampled.positions,
        table.records,
        table.token_ids,
        table.token_ids.stride(0),
        table.bias_ids,
        table.bias_values,
        table.bias_ids.stride(0),
        scores,
        scratch.get("token counts", shape, torch.int32),
        VOCAB=vocab_size,
        RECORD_WORDS=table.records.shape[1],
        BLOCK=ADJUST_BLOCK,
        num_warps=16,
        enable_fp_fusion=False,
    )
    return scores[:num_rows]


def _most_rows(num_rows: int, table: SamplingTable) -> int:
    """What no step exceeds, so that memory is taken once."""
    return max(num_rows, len(table.records))


@triton.jit
def float_of(record: tl.tensor, WORD: tl.constexpr) -> tl.tensor:
    """A float32 of a record, which stores its bits."""
    return tl.load(record + WORD).to(tl.float32, bitcast=True)


@triton.jit
def uniform_of(record: tl.tensor, position: tl.tensor) -> tl.tensor:
    """The row's uniform number, float64 in [0, 1): the bits of ``uniforms_reference``."""
    low = tl.load(record + SEED_LOW).to(tl.uint32, bitcast=True)
    high = tl.load(record + SEED_HIGH).to(tl.uint32, bitcast=True)
    index = tl.load(record + INDEX).to(tl.uint32, bitcast=True)
    offset = (position - tl.load(record + NUM_PROMPT_TOKENS)).to(tl.uint32, bitcast=True)
    seed = (high.to(tl.uint64) << 32) | low.to(tl.uint64)
    first, second, _, _ = tl.philox(seed, offset, offset * 0, index, offset * 0)
    mantissa = (first >> 5).to(tl.uint64) * 67108864 + (second >> 6).to(tl.uint64)
    return mantissa.to(tl.float64) * 2.0**-53


@triton.jit
def held_weights(
    line: tl.tensor,
    held: tl.tensor,
    num_held: tl.tensor,
    top: tl.tensor,
    scale: tl.tensor,
    lowest: tl.tensor,
    VOCAB: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
) -> tl.tensor:
    """The weights of the held tokens whose scores are ``lowest`` or more, zero elsewhere."""
    scores = held_scores(line, held, num_held, VOCAB, ROWS, COLS)
    return tl.where(scores >= lowest, weights_of(scores, top, scale), 0.0)


@triton.jit
def find_cut(
    line: tl.tensor,
    record: tl.tensor,
    best: tl.tensor,
    top: tl.tensor,
    scale: tl.tensor,
    held: tl.tensor,
    VOCAB: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    TILES: tl.constexpr,
    SHIFT: tl.constexpr,
) -> tl.tuple:
    """The lowest score within min_p, then top_k of what is left, then top_p of that.

    With it how many tokens are in the second tile of ``held``: those from the lowest on are among
    them, or it is 0.
    """
    top_k, top_p = tl.load(record + TOP_K), float_of(record, TOP_P)
    # The weight is min_p or more.
    floor = tl.maximum(top + tl.log2(float_of(record, MIN_P)) / scale, -MAX_SCORE)
    tl.store(held + tile_offsets(ROWS, COLS), best)
    tl.debug_barrier()
    key = key_of(floor, SHIFT)
    held_from = key_of(top, SHIFT) + 1
    num_held = tl.full((), 0, tl.int32)
    for stage in range(2):
        is_count = stage == 0
        measure = tl.where(is_count, top_k, 0).to(tl.float64)
        if (top_p < 1) & (stage == 1):
            lowest = score_of(key, floor, SHIFT)
            if held_from <= key:
                weights = held_weights(
                    line, held + ROWS * COLS, num_held, top, scale, lowest, VOCAB, ROWS, COLS
                )
                measure = total(weights)
            else:
                masses = tile_masses(line, top, scale, lowest, VOCAB, ROWS, COLS, TILES)
                measure = tl.sum(masses, 0)
            measure *= top_p.to(tl.float64)
        if measure > 0:
            key, held_from, num_held = raise_cut(
                line,
                top,
                scale,
                floor,
                key,
                is_count,
                measure,
                held,
                held_from,
                num_held,
                VOCAB,
                ROWS,
                COLS,
                SHIFT,
            )
    return score_of(key, floor, SHIFT), tl.where(held_from <= key, num_held, 0)


@triton.jit
def draw_token(
    line: tl.tensor,
    record: tl.tensor,
    position: tl.tensor,
    best: tl.tensor,
    top: tl.tensor,
    scale: tl.tensor,
    held: tl.tensor,
    VOCAB: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    TILES: tl.constexpr,
    SHIFT: tl.constexpr,
    CUT: tl.constexpr,
) -> tl.tensor:
    """The row's token, from the held tokens where those are all that may be drawn."""
    lowest = tl.full((), float("-inf"), tl.float32)
    num_held = tl.full((), 0, tl.int32)
    if CUT:
        is_cut = tl.load(record + TOP_K) > 0
        is_cut |= (float_of(record, TOP_P) < 1) | (float_of(record, MIN_P) > 0)
        if is_cut:
            lowest, num_held = find_cut(
                line, record, best, top, scale, held, VOCAB, ROWS, COLS, TILES, SHIFT
            )
    uniform = uniform_of(record, position)
    token = tl.full((), 0, tl.int32)
    if num_held > 0:
        tile = held + ROWS * COLS
        weights = held_weights(line, tile, num_held, top, scale, lowest, VOCAB, ROWS, COLS)
        token = tl.load(tile + pick(weights, uniform * total(weights), ROWS, COLS))
    else:
        token = draw_from_row(line, top, scale, lowest, uniform, VOCAB, ROWS, COLS, TILES)
    return token


@triton.jit(do_not_specialize_on_alignment=["row_ids", "positions", "token_ids", "is_finite"])
def choose_kernel(
    logits: tl.tensor,
    logits_stride: int,
    row_ids: tl.tensor,
    positions: tl.tensor,
    records: tl.tensor,
    token_ids: tl.tensor,
    is_finite: tl.tensor,
    logprobs: tl.tensor,
    held: tl.tensor,
    VOCAB: tl.constexpr,
    RECORD_WORDS: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    TILES: tl.constexpr,
    SHIFT: tl.constexpr,
    DRAW: tl.constexpr,
    CUT: tl.constexpr,
    LOGPROBS: tl.constexpr,
) -> None:
    """``choose`` of one row; ``logprobs`` [S, 2] get the token's, and the logarithm of the sum."""
    row = tl.program_id(0)
    row_id = tl.load(row_ids + row)
    token = tl.full((), 0, tl.int32)
    row_is_finite = tl.full((), 1, tl.int32)
    if row_id >= 0:
        line = logits + row.to(tl.int64) * logits_stride
        top, token, row_is_finite, best = find_peak(line, VOCAB, ROWS, COLS)
        if DRAW:
            record = records + row_id.to(tl.int64) * RECORD_WORDS
            temperature = float_of(record, TEMPERATURE)
            if (temperature > 0) & (row_is_finite != 0):
                scale = LOG2_E / temperature
                token = draw_token(
                    line,
                    record,
                    tl.load(positions + row),
                    best,
                    top,
                    scale,
                    held + row.to(tl.int64) * (2 * ROWS * COLS),
                    VOCAB,
                    ROWS,
                    COLS,
                    TILES,
                    SHIFT,
                    CUT,
                )
        if LOGPROBS:
            record = records + row_id.to(tl.int64) * RECORD_WORDS
            if tl.load(record + NUM_LOGPROBS) >= 0:
                all_scores = float("-inf")
                masses = tile_masses(line, top, LOG2_E, all_scores, VOCAB, ROWS, COLS, TILES)
                log_total = tl.log(tl.sum(masses, 0).to(tl.float32)) + top
                tl.store(logprobs + row * 2, scores_at(line, token, VOCAB) - log_total)
                tl.store(logprobs + row * 2 + 1, log_total)
    tl.store(token_ids + row, token)
    tl.store(is_finite + row, row_is_finite)
