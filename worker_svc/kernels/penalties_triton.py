"""Logits after penalties and bias, in float32: O(context) beyond the copy that holds them.

Output tokens are counted by integer atomics in a buffer of the vocabulary's size that is zero
before and after: only the counts of the row's own tokens are touched, and set back.
"""

from __future__ import annotations

import triton
import triton.language as tl

from worker_svc.kernels import record as _record
from worker_svc.kernels.sampling import MAX_SCORE as _MAX_SCORE

MAX_SCORE = tl.constexpr(_MAX_SCORE)
PRESENCE = tl.constexpr(_record.PRESENCE)
FREQUENCY = tl.constexpr(_record.FREQUENCY)
REPETITION = tl.constexpr(_record.REPETITION)
NUM_PROMPT_TOKENS = tl.constexpr(_record.NUM_PROMPT_TOKENS)
NUM_BIASES = tl.constexpr(_record.NUM_BIASES)


@triton.jit
def kept_finite(raw: tl.tensor, score: tl.tensor) -> tl.tensor:
    """The score within its bounds; what was not finite stays so, and will be told."""
    score = tl.minimum(tl.maximum(score, -MAX_SCORE), MAX_SCORE)
    return tl.where(tl.abs(raw) < float("inf"), score, raw)


@triton.jit
def penalise(
    line: tl.tensor,
    record: tl.tensor,
    tokens: tl.tensor,
    position: tl.tensor,
    scores: tl.tensor,
    counts: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    """Write the penalised scores of the row's ``tokens``, ``position`` of them."""
    num_prompt = tl.load(record + NUM_PROMPT_TOKENS)
    presence = tl.load(record + PRESENCE).to(tl.float32, bitcast=True)
    frequency = tl.load(record + FREQUENCY).to(tl.float32, bitcast=True)
    repetition = tl.load(record + REPETITION).to(tl.float32, bitcast=True)
    if (presence != 0) | (frequency != 0) | (repetition != 1):
        at = tl.arange(0, BLOCK)
        for start in range(0, position, BLOCK):
            is_output = (start + at >= num_prompt) & (start + at < position)
            ids = tl.load(tokens + start + at, mask=is_output, other=0)
            tl.atomic_add(counts + ids, 1, mask=is_output, sem="relaxed")
        tl.debug_barrier()
        for start in range(0, position, BLOCK):
            inside = start + at < position
            ids = tl.load(tokens + start + at, mask=inside, other=0)
            count = tl.load(counts + ids, mask=inside, other=0, cache_modifier=".cg")
            raw = tl.load(line + ids, mask=inside, other=0.0).to(tl.float32)
            score = tl.where(raw > 0, tl.div_rn(raw, repetition), raw * repetition)
            score -= frequency * count.to(tl.float32)
            score -= tl.where(count > 0, presence, 0.0)
            tl.store(scores + ids, kept_finite(raw, score), mask=inside)
        tl.debug_barrier()
        for start in range(0, position, BLOCK):
            is_output = (start + at >= num_prompt) & (start + at < position)
            ids = tl.load(tokens + start + at, mask=is_output, other=0)
            tl.store(counts + ids, 0, mask=is_output)


@triton.jit(do_not_specialize_on_alignment=["row_ids", "positions"])
def adjust_kernel(
    logits: tl.tensor,
    logits_stride: int,
    row_ids: tl.tensor,
    positions: tl.tensor,
    records: tl.tensor,
    token_ids: tl.tensor,
    tokens_stride: int,
    bias_ids: tl.tensor,
    bias_values: tl.tensor,
    biases_stride: int,
    scores: tl.tensor,
    counts: tl.tensor,
    VOCAB: tl.constexpr,
    RECORD_WORDS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """One program a row: copy its logits, then penalties, then bias."""
    row = tl.program_id(0).to(tl.int64)
    row_id = tl.load(row_ids + row).to(tl.int64)
    if row_id >= 0:
        line = logits + row * logits_stride
        scores += row * VOCAB
        at = tl.arange(0, BLOCK)
        for start in range(0, VOCAB, BLOCK):
            inside = start + at < VOCAB
            raw = tl.load(line + start + at, mask=inside, other=0.0).to(tl.float32)
            tl.store(scores + start + at, raw, mask=inside)
        tl.debug_barrier()
        record = records + row_id * RECORD_WORDS
        tokens = token_ids + row_id * tokens_stride
        position = tl.load(positions + row)
        penalise(line, record, tokens, position, scores, counts + row * VOCAB, BLOCK)
        tl.debug_barrier()
        num_biases = tl.load(record + NUM_BIASES)
        biases = row_id * biases_stride
        for start in range(0, num_biases, BLOCK):
            inside = start + at < num_biases
            ids = tl.load(bias_ids + biases + start + at, mask=inside, other=0)
            bias = tl.load(bias_values + biases + start + at, mask=inside, other=0.0)
            score = tl.load(scores + ids, mask=inside, other=0.0, cache_modifier=".cg")
            tl.store(scores + ids, kept_finite(score, score + bias), mask=inside)
