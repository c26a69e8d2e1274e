"""The sampler in torch: from logits and records to tokens, each stage over the rows in need."""

from __future__ import annotations

import torch
from torch import Tensor

from worker_svc.core.needs import StepNeeds
from worker_svc.kernels.choice import Choice, Logprobs, SampledRows, SamplingTable
from worker_svc.kernels.philox import uniforms_reference
from worker_svc.kernels.record import Columns
from worker_svc.kernels.sampling import MAX_SCORE
from worker_svc.kernels.scratch import Scratch
from worker_svc.kernels.truncate import Bounds, draw_within
from worker_svc.kernels.vocabulary import WHOLE, Vocabulary


def choose_reference(
    logits: Tensor,
    sampled: SampledRows,
    table: SamplingTable,
    needs: StepNeeds,
    scratch: Scratch,
    vocabulary: Vocabulary = WHOLE,
) -> Choice:
    """One token for each row of ``logits [S, n]``, which are left as they are.

    ``scratch`` is for kernels that need memory; ``vocabulary`` is what the logits are about. In
    float64 for float64 logits, in float32 for others. Reads the records: on another device than a
    CPU it waits, but where all rows take the likeliest token as it is.
    """
    del scratch
    peaks, token_ids, is_finite = vocabulary.best(logits)
    is_plain = not (needs.penalties or needs.bias or needs.draw or needs.num_logprobs >= 0)
    if is_plain:
        return Choice(token_ids.int(), is_finite.int())
    row_ids = sampled.row_ids.clamp(min=0).long()
    columns = Columns(table.records)[row_ids]
    is_sound = is_finite & (sampled.row_ids >= 0)
    scores = logits.to(torch.promote_types(logits.dtype, torch.float32))
    peaks = peaks.to(scores.dtype)
    if needs.penalties or needs.bias:
        at = (is_sound & _is_adjusted(columns)).nonzero().squeeze(1)
        part = scores[at]
        rows = SampledRows(row_ids[at], sampled.positions[at])
        _penalise(part, rows, columns[at], table.token_ids, vocabulary)
        _bias(part, rows, columns[at], table, vocabulary)
        peaks[at], token_ids[at], _ = vocabulary.best(part.clamp_(-MAX_SCORE, MAX_SCORE))
        scores = scores.index_copy(0, at, part)
    if needs.draw:
        at = (is_sound & (columns.temperature > 0)).nonzero().squeeze(1)
        weighed = (scores[at] - peaks[at, None]).div_(columns.temperature[at, None])
        token_ids[at] = _draw(weighed, columns[at], sampled.positions[at], vocabulary)
    logprobs = None
    if needs.num_logprobs >= 0:
        at = (columns.num_logprobs >= 0).nonzero().squeeze(1)
        shifted = scores[at].sub_(peaks[at, None])
        told = _logprobs(shifted, token_ids[at], needs.num_logprobs, vocabulary)
        logprobs = _spread(told, at, len(scores))
    return Choice(token_ids.int(), is_finite.int(), logprobs)


def logprobs_reference(
    logits: Tensor, token_ids: Tensor, most: int, vocabulary: Vocabulary = WHOLE
) -> Logprobs:
    """Of ``token_ids [K]`` by ``logits [K, n]``, and of the ``most`` likeliest in each place.

    In float64 for float64 logits, in float32 for others. Reads nothing back.
    """
    scores = logits.to(torch.promote_types(logits.dtype, torch.float32))
    shifted = scores - vocabulary.best(scores).scores[:, None]
    told = _logprobs(shifted, token_ids, most, vocabulary)
    return Logprobs(told.chosen.float(), told.top_ids.int(), told.top.float())


def _is_adjusted(columns: Columns) -> Tensor:
    is_penalised = (columns.presence != 0) | (columns.frequency != 0) | (columns.repetition != 1)
    return is_penalised | (columns.num_biases > 0)


def _penalise(
    scores: Tensor,
    rows: SampledRows,
    columns: Columns,
    token_ids: Tensor,
    vocabulary: Vocabulary,
) -> None:
    """Repetition over prompt and output (Keskar et al., "CTRL", section 4.1); frequency and
    presence over the output, as OpenAI's API defines them.
    """
    if scores.numel() == 0:
        return
    num_output, is_seen = _count_tokens(scores, rows, columns, token_ids, vocabulary)
    repetition = columns.repetition[:, None].to(scores.dtype)
    repeated = torch.where(scores > 0, scores / repetition, scores * repetition)
    scores.copy_(torch.where(is_seen, repeated, scores))
    scores -= columns.frequency[:, None] * num_output
    scores -= columns.presence[:, None] * (num_output > 0)


def _count_tokens(
    scores: Tensor,
    rows: SampledRows,
    columns: Columns,
    token_ids: Tensor,
    vocabulary: Vocabulary,
) -> tuple[Tensor, Tensor]:
    """How often each token is in the output, and whether it is in the prompt or output.

    ``[P, n]`` both. Adding ones is exact, in whatever order a device does it.
    """
    positions = torch.arange(int(rows.positions.max()), device=scores.device)
    tokens = token_ids[rows.row_ids, : len(positions)].long()
    is_known = (positions < rows.positions[:, None]).to(scores.dtype)
    is_output = (positions >= columns.num_prompt_tokens[:, None]).to(scores.dtype) * is_known
    num_output, num_known = torch.zeros_like(scores), torch.zeros_like(scores)
    vocabulary.add(num_output, tokens, is_output)
    vocabulary.add(num_known, tokens, is_known)
    return num_output, num_known > 0


def _bias(
    scores: Tensor,
    rows: SampledRows,
    columns: Columns,
    table: SamplingTable,
    vocabulary: Vocabulary,
) -> None:
    most = int(columns.num_biases.max()) if scores.numel() else 0
    is_meant = torch.arange(most, device=scores.device) < columns.num_biases[:, None]
    token_ids = table.bias_ids[rows.row_ids, :most].masked_fill(~is_meant, 0)
    biases = table.bias_values[rows.row_ids, :most].masked_fill(~is_meant, 0)
    vocabulary.add(scores, token_ids.long(), biases.to(scores.dtype))


def _draw(scores: Tensor, columns: Columns, positions: Tensor, vocabulary: Vocabulary) -> Tensor:
    """``[D]`` int64: tokens drawn by the scores over the temperature, less the largest."""
    offsets = positions - columns.num_prompt_tokens
    uniforms = uniforms_reference(columns.seed, columns.index.long() & 0xFFFFFFFF, offsets)
    is_cut = (columns.top_k > 0) | (columns.top_p < 1) | (columns.min_p > 0)
    if not is_cut.any():
        return vocabulary.draw(scores, uniforms)
    token_ids = torch.empty(len(scores), dtype=torch.int64, device=scores.device)
    at = (~is_cut).nonzero().squeeze(1)
    if at.numel():
        token_ids[at] = vocabulary.draw(scores[at], uniforms[at])
    at = is_cut.nonzero().squeeze(1)
    bounds = Bounds(columns.min_p[at], columns.top_k[at].long(), columns.top_p[at])
    token_ids[at] = draw_within(scores[at], bounds, uniforms[at], vocabulary)
    return token_ids


def _logprobs(shifted: Tensor, token_ids: Tensor, most: int, vocabulary: Vocabulary) -> Logprobs:
    """Of the tokens that rows chose and of the ``most`` likeliest, in the scores' dtype.

    ``shifted`` are scores less the row's largest; nothing is left of them.
    """
    top = vocabulary.top(shifted, min(most, vocabulary.num_tokens(shifted)))
    chosen = vocabulary.take(shifted, token_ids)
    norm = vocabulary.total(shifted.exp_().sum(-1).double()).log().to(shifted.dtype)
    return Logprobs(chosen - norm, top.indices, top.values - norm[:, None])


def _spread(told: Logprobs, at: Tensor, num_rows: int) -> Logprobs:
    """Those of the rows ``at``, as those of all rows."""

    def spread(values: Tensor, dtype: torch.dtype) -> Tensor:
        shape = (num_rows, *values.shape[1:])
        zeros = torch.zeros(shape, dtype=dtype, device=values.device)
        return zeros.index_copy_(0, at, values.to(dtype))

    f32 = torch.float32
    return Logprobs(
        spread(told.chosen, f32), spread(told.top_ids, torch.int32), spread(told.top, f32)
    )
