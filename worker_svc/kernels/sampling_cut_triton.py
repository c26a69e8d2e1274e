"""Where a row is cut: the lowest score that top_k and top_p leave, found without sorting.

Scores are searched by their *keys*, integers in the order of the numbers; those of 16-bit logits
have 16 bits or fewer, so that no step is spent on bits that do not differ. The best tokens at
each index of a tile (see ``find_peak``) bound the cut from below, and nearly always leave so few
candidates that one pass gathers them and the rest happens in registers. Where they do not, three
cuts at a time are tried on the whole row until they do.

A cut is asked for by a *measure*: so many tokens (each measures 1), or so much mass (each measures
its weight).
"""

from __future__ import annotations

import triton
import triton.language as tl

from worker_svc.kernels.sampling_row_triton import (
    STAGES,
    scores_at,
    tile_offsets,
    total_from,
    weights_of,
)


@triton.jit
def key_of(score: tl.tensor, SHIFT: tl.constexpr) -> tl.tensor:
    """The key of a float32; ``SHIFT`` low bits are dropped."""
    bits = score.to(tl.int32, bitcast=True)
    return tl.where(bits >= 0, bits, bits ^ 0x7FFFFFFF) >> SHIFT


@triton.jit
def score_of(key: tl.tensor, floor: tl.tensor, SHIFT: tl.constexpr) -> tl.tensor:
    """The least score of this key that is not below ``floor``."""
    bits = key << SHIFT
    bits = tl.where(bits >= 0, bits, bits ^ 0x7FFFFFFF)
    return tl.maximum(bits.to(tl.float32, bitcast=True), floor)


@triton.jit
def middle_of(low: tl.tensor, high: tl.tensor) -> tl.tensor:
    """Their mean, rounded down; their sum may not fit 32 bits."""
    return (low & high) + ((low ^ high) >> 1)


@triton.jit
def measures_of(
    scores: tl.tensor, top: tl.tensor, scale: tl.tensor, is_count: tl.tensor
) -> tl.tensor:
    """What each token counts for: 1 where tokens are counted, else its weight."""
    return tl.where(is_count, 1.0, weights_of(scores, top, scale))


@triton.jit
def held_scores(
    line: tl.tensor,
    held: tl.tensor,
    num_held: tl.tensor,
    VOCAB: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
) -> tl.tensor:
    """``[ROWS, COLS]``: the scores of the ``num_held`` tokens in ``held``, then -inf."""
    offsets = tile_offsets(ROWS, COLS)
    return scores_at(line, tl.load(held + offsets, offsets < num_held, other=VOCAB), VOCAB)


@triton.jit
def gather(
    line: tl.tensor,
    lowest: tl.tensor,
    above: tl.tensor,
    held: tl.tensor,
    VOCAB: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
) -> tl.tensor:
    """One pass: write the tokens whose scores are in [lowest, above), in their order.

    Returns how many there are; where that is more than a tile, nothing written means anything.
    """
    offsets = tile_offsets(ROWS, COLS)
    num_held = tl.full((), 0, tl.int32)
    tl.debug_barrier()  # all have read what was held before
    for start in tl.range(0, VOCAB, ROWS * COLS, num_stages=STAGES):
        scores = scores_at(line, start + offsets, VOCAB)
        is_in = (scores >= lowest) & (scores < above)
        ones = is_in.to(tl.int32)
        rows = tl.sum(ones, 1)
        num_found = tl.sum(rows, 0)
        if num_found > 0:
            before = num_held + tl.cumsum(rows, 0) - rows
            indices = before[:, None] + tl.cumsum(ones, 1) - ones
            is_in &= indices < ROWS * COLS
            tl.store(held + indices, start + offsets, mask=is_in)
        num_held += num_found
    tl.debug_barrier()
    return num_held


@triton.jit
def search(
    scores: tl.tensor,
    measures: tl.tensor,
    floor: tl.tensor,
    low: tl.tensor,
    high: tl.tensor,
    measure: tl.tensor,
    SHIFT: tl.constexpr,
) -> tl.tensor:
    """The largest key in [low, high) from which ``scores`` have the ``measure``, or ``low``."""
    while low < middle_of(low, high):
        middle = middle_of(low, high)
        is_enough = total_from(scores, measures, score_of(middle, floor, SHIFT)) >= measure
        low = tl.where(is_enough, middle, low)
        high = tl.where(is_enough, high, middle)
    return low


@triton.jit
def narrow(
    line: tl.tensor,
    top: tl.tensor,
    scale: tl.tensor,
    is_count: tl.tensor,
    floor: tl.tensor,
    ends: tl.tuple,
    measure: tl.tensor,
    VOCAB: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    SHIFT: tl.constexpr,
) -> tl.tuple:
    """One pass: a quarter of the keys between two ends, and what there is from these on.

    Takes and returns (low, the number of scores from it on, high, the number from it on, their
    measure).
    """
    low, num_low, high, num_high, above = ends
    second = middle_of(low, high)
    keys = (middle_of(low, second), second, middle_of(second, high))
    bounds = (
        score_of(keys[0], floor, SHIFT),
        score_of(keys[1], floor, SHIFT),
        score_of(keys[2], floor, SHIFT),
    )
    counts, sums = try_three(line, top, scale, is_count, bounds, VOCAB, ROWS, COLS)
    for i in tl.static_range(3):
        is_enough = sums[i] >= measure
        is_inside = (keys[i] > low) & (keys[i] < high)
        is_lower, is_higher = is_inside & is_enough, is_inside & ~is_enough
        low = tl.where(is_lower, keys[i], low)
        num_low = tl.where(is_lower, counts[i], num_low)
        high = tl.where(is_higher, keys[i], high)
        num_high = tl.where(is_higher, counts[i], num_high)
        above = tl.where(is_higher, sums[i], above)
    return low, num_low, high, num_high, above


@triton.jit
def try_three(
    line: tl.tensor,
    top: tl.tensor,
    scale: tl.tensor,
    is_count: tl.tensor,
    bounds: tl.tuple,
    VOCAB: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
) -> tl.tuple:
    """One pass: the counts and measures of the scores from each of three ``bounds`` on."""
    offsets = tile_offsets(ROWS, COLS)
    count_1 = tl.zeros((ROWS,), tl.int32)
    count_2 = tl.zeros((ROWS,), tl.int32)
    count_3 = tl.zeros((ROWS,), tl.int32)
    sum_1 = tl.zeros((ROWS,), tl.float64)
    sum_2 = tl.zeros((ROWS,), tl.float64)
    sum_3 = tl.zeros((ROWS,), tl.float64)
    for start in tl.range(0, VOCAB, ROWS * COLS, num_stages=STAGES):
        scores = scores_at(line, start + offsets, VOCAB)
        measures = measures_of(scores, top, scale, is_count)
        count_1 += tl.sum((scores >= bounds[0]).to(tl.int32), 1)
        count_2 += tl.sum((scores >= bounds[1]).to(tl.int32), 1)
        count_3 += tl.sum((scores >= bounds[2]).to(tl.int32), 1)
        sum_1 += tl.sum(tl.where(scores >= bounds[0], measures, 0.0), 1).to(tl.float64)
        sum_2 += tl.sum(tl.where(scores >= bounds[1], measures, 0.0), 1).to(tl.float64)
        sum_3 += tl.sum(tl.where(scores >= bounds[2], measures, 0.0), 1).to(tl.float64)
    counts = (tl.sum(count_1, 0), tl.sum(count_2, 0), tl.sum(count_3, 0))
    return counts, (tl.sum(sum_1, 0), tl.sum(sum_2, 0), tl.sum(sum_3, 0))


@triton.jit
def raise_cut(
    line: tl.tensor,
    top: tl.tensor,
    scale: tl.tensor,
    floor: tl.tensor,
    low: tl.tensor,
    is_count: tl.tensor,
    measure: tl.tensor,
    held: tl.tensor,
    held_from: tl.tensor,
    num_held: tl.tensor,
    VOCAB: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    SHIFT: tl.constexpr,
) -> tl.tuple:
    """Raise the cut from the key ``low`` to the largest that leaves ``measure``.

    The second tile of ``held`` are all tokens of keys from ``held_from`` on, ``num_held`` of them;
    nothing where that is above the top's key. The first are tokens that bound the cut.
    Returns (key, held_from, num_held).
    """
    end = key_of(top, SHIFT) + 1
    high = end
    num_low, num_high = tl.full((), VOCAB, tl.int32), tl.full((), 0, tl.int32)
    above = tl.full((), 0.0, tl.float64)
    is_first, are_few = low < end, low < end
    while low < middle_of(low, high):
        if are_few:
            if ((held_from > low) | (high < end)) & ~is_first:
                lowest, beyond = score_of(low, floor, SHIFT), score_of(high, floor, SHIFT)
                num_held = gather(line, lowest, beyond, held + ROWS * COLS, VOCAB, ROWS, COLS)
                held_from = tl.where((high < end) | (num_held > ROWS * COLS), end, low)
            are_few = is_first | (num_held <= ROWS * COLS)
            if are_few:
                tile = held + tl.where(is_first, 0, ROWS * COLS)
                num_scores = tl.where(is_first, ROWS * COLS, num_held)
                scores = held_scores(line, tile, num_scores, VOCAB, ROWS, COLS)
                measures = measures_of(scores, top, scale, is_count)
                low = search(scores, measures, floor, low, high, measure - above, SHIFT)
                high = tl.where(is_first, high, low + 1)
            is_first = low >= end
        else:
            ends = (low, num_low, high, num_high, above)
            low, num_low, high, num_high, above = narrow(
                line, top, scale, is_count, floor, ends, measure, VOCAB, ROWS, COLS, SHIFT
            )
            are_few = num_low - num_high <= ROWS * COLS
    return low, held_from, num_held
