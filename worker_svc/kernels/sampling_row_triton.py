"""Passes of one program over one row of logits, and draws from what they find.

A row is read by tiles of ``ROWS * COLS`` tokens in the vocabulary's order; ``COLS`` neighbours
lie in one thread, so that sums along them need no other thread. A token's weight is
e**((score - top) / temperature) in float32; neighbours are summed in float32, all else in
float64, in an order that depends on nothing but the shape: a row gives the same bits in any batch.
"""

from __future__ import annotations

import triton
import triton.language as tl

from worker_svc.kernels.sampling import MAX_SCORE as _MAX_SCORE

MAX_SCORE = tl.constexpr(_MAX_SCORE)
# Tiles under way: a program waits for memory, not for one tile after another.
STAGES = tl.constexpr(4)


@triton.jit
def tile_offsets(ROWS: tl.constexpr, COLS: tl.constexpr) -> tl.tensor:
    """``[ROWS, COLS]`` int32: 0, 1, 2 and so on."""
    return tl.arange(0, ROWS)[:, None] * COLS + tl.arange(0, COLS)[None, :]


@triton.jit
def clamped(raw: tl.tensor, inside: tl.tensor) -> tl.tensor:
    """Scores as they count: finite, and -inf outside the vocabulary."""
    scores = tl.minimum(tl.maximum(raw, -MAX_SCORE), MAX_SCORE)
    return tl.where(inside, scores, float("-inf"))


@triton.jit
def scores_at(line: tl.tensor, at: tl.tensor, VOCAB: tl.constexpr) -> tl.tensor:
    """The scores of the tokens ``at``, in float32."""
    inside = at < VOCAB
    raw = tl.load(line + at, mask=inside, other=0.0).to(tl.float32)
    return clamped(raw, inside)


@triton.jit
def weights_of(scores: tl.tensor, top: tl.tensor, scale: tl.tensor) -> tl.tensor:
    """``scale`` is log2(e) / temperature. Of -inf it is 0."""
    return tl.exp2((scores - top) * scale)


@triton.jit
def total(parts: tl.tensor) -> tl.tensor:
    """The sum of a tile of float32, in float64."""
    return tl.sum(tl.sum(parts, 1).to(tl.float64), 0)


@triton.jit
def total_from(scores: tl.tensor, parts: tl.tensor, lowest: tl.tensor) -> tl.tensor:
    """The sum of the parts of those scores that are ``lowest`` or more."""
    return total(tl.where(scores >= lowest, parts, 0.0))


@triton.jit
def find_peak(
    line: tl.tensor, VOCAB: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr
) -> tl.tuple:
    """One pass: (top score, its first token, whether all is finite, best token of each index).

    The last are ``[ROWS, COLS]`` different tokens of high scores (VOCAB or more where there is
    none): they bound the k-th largest score and the score above which a mass is from below.
    """
    offsets = tile_offsets(ROWS, COLS)
    best = tl.full((ROWS, COLS), float("-inf"), tl.float32)
    tiles = tl.zeros((ROWS, COLS), tl.int32)
    is_finite = tl.full((ROWS,), 1, tl.int32)
    for start in tl.range(0, VOCAB, ROWS * COLS, num_stages=STAGES):
        inside = start + offsets < VOCAB
        raw = tl.load(line + start + offsets, mask=inside, other=0.0).to(tl.float32)
        is_finite &= tl.min((tl.abs(raw) < float("inf")).to(tl.int32), 1)
        scores = clamped(raw, inside)
        is_better = scores > best
        best = tl.where(is_better, scores, best)
        tiles = tl.where(is_better, start, tiles)
    top = tl.max(tl.max(best, 1), 0)
    tokens = tiles + offsets
    first = tl.min(tl.min(tl.where(best == top, tokens, VOCAB - 1), 1), 0)
    return top, first, tl.min(is_finite, 0), tokens


@triton.jit
def tile_masses(
    line: tl.tensor,
    top: tl.tensor,
    scale: tl.tensor,
    lowest: tl.tensor,
    VOCAB: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    TILES: tl.constexpr,
) -> tl.tensor:
    """One pass: ``[TILES]`` float64, the mass of each tile's scores that are ``lowest`` or more."""
    offsets = tile_offsets(ROWS, COLS)
    tiles = tl.arange(0, TILES)
    masses = tl.zeros((TILES,), tl.float64)
    for start in tl.range(0, VOCAB, ROWS * COLS, num_stages=STAGES):
        scores = scores_at(line, start + offsets, VOCAB)
        weights = tl.where(scores >= lowest, weights_of(scores, top, scale), 0.0)
        masses = tl.where(tiles == start // (ROWS * COLS), total(weights), masses)
    return masses


@triton.jit
def pick(
    weights: tl.tensor, target: tl.tensor, ROWS: tl.constexpr, COLS: tl.constexpr
) -> tl.tensor:
    """The first index whose cumulative weight exceeds ``target``; weights of zero never do."""
    offsets = tile_offsets(ROWS, COLS)
    wide = weights.to(tl.float64)
    rows = tl.sum(wide, 1)
    through = tl.cumsum(wide, 1) + (tl.cumsum(rows, 0) - rows)[:, None]
    is_possible = weights > 0
    passed = tl.where(is_possible & (through > target), offsets, ROWS * COLS)
    first = tl.min(tl.min(passed, 1), 0)
    # Rounding may leave no index past the target: then it is the last possible one.
    last = tl.max(tl.max(tl.where(is_possible, offsets, 0), 1), 0)
    return tl.where(first < ROWS * COLS, first, last)


@triton.jit
def draw_from_row(
    line: tl.tensor,
    top: tl.tensor,
    scale: tl.tensor,
    lowest: tl.tensor,
    uniform: tl.tensor,
    VOCAB: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    TILES: tl.constexpr,
) -> tl.tensor:
    """The token, drawn among the scores that are ``lowest`` or more."""
    masses = tile_masses(line, top, scale, lowest, VOCAB, ROWS, COLS, TILES)
    tiles = tl.arange(0, TILES)
    target = uniform * tl.sum(masses, 0)
    is_possible = masses > 0
    passed = tl.where(is_possible & (tl.cumsum(masses, 0) > target), tiles, TILES)
    first = tl.min(passed, 0)
    last = tl.max(tl.where(is_possible, tiles, 0), 0)
    tile = tl.where(first < TILES, first, last)
    before = tl.sum(tl.where(tiles < tile, masses, 0.0), 0)
    start = tile * (ROWS * COLS)
    scores = scores_at(line, start + tile_offsets(ROWS, COLS), VOCAB)
    weights = tl.where(scores >= lowest, weights_of(scores, top, scale), 0.0)
    return start + pick(weights, target - before, ROWS, COLS)
