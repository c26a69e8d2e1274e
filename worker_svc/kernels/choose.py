"""The sampler in torch: from logits and records to tokens, each stage over the rows in need."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from worker_svc.core.needs import StepNeeds
from worker_svc.kernels.choice import Choice, Logprobs, SampledRows, SamplingTable
from worker_svc.kernels.philox import uniforms_reference
from worker_svc.kernels.record import Columns
from worker_svc.kernels.sampling import MAX_SCORE, categorical_reference
from worker_svc.kernels.scratch import Scratch
from worker_svc.kernels.truncate import Bounds, draw_within

Categorical = Callable[[Tensor, Tensor], Tensor]


def choose_reference(
    logits: Tensor,
    sampled: SampledRows,
    table: SamplingTable,
    needs: StepNeeds,
    scratch: Scratch,
    categorical: Categorical = categorical_reference,
) -> Choice:
    """One token for each row of ``logits [S, V]``, which are left as they are.

    ``scratch`` is for kernels that need memory; ``categorical`` as in ``sampling``. In float64 for
    float64 logits, in float32 for others. Reads the records: on another device than a CPU it waits.
    """
    del scratch
    token_ids, is_finite = logits.argmax(-1), _is_finite(logits)
    is_plain = not (needs.penalties or needs.bias or needs.draw or needs.num_logprobs >= 0)
    if is_plain:
        return Choice(token_ids.int(), is_finite.int())
    row_ids = sampled.row_ids.clamp(min=0).long()
    columns = Columns(table.records)[row_ids]
    is_sound = is_finite & (sampled.row_ids >= 0)
    scores = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if needs.penalties or needs.bias:
        at = (is_sound & _is_adjusted(columns)).nonzero().squeeze(1)
        part = scores[at]
        rows = SampledRows(row_ids[at], sampled.positions[at])
        _penalise(part, rows, columns[at], table.token_ids)
        _bias(part, rows, columns[at], table)
        token_ids[at] = part.clamp_(-MAX_SCORE, MAX_SCORE).argmax(-1)
        scores = scores.index_copy(0, at, part)
    if needs.draw:
        at = (is_sound & (columns.temperature > 0)).nonzero().squeeze(1)
        peaks = scores[at].gather(1, token_ids[at, None])
        weighed = (scores[at] - peaks).div_(columns.temperature[at, None])
        token_ids[at] = _draw(weighed, columns[at], sampled.positions[at], categorical)
    logprobs = None
    if needs.num_logprobs >= 0:
        logprobs = _logprobs(token_ids, scores, columns, needs.num_logprobs)
    return Choice(token_ids.int(), is_finite.int(), logprobs)


def _is_finite(logits: Tensor) -> Tensor:
    """``[S]`` bool: all of a row is. One pass tells: what is not stays so in the sum."""
    wide_dtype = torch.promote_types(logits.dtype, torch.float32)
    is_finite = torch.isfinite(logits.sum(-1, dtype=wide_dtype))
    if not is_finite.all():  # or the sum was too large
        is_finite = torch.isfinite(logits).all(-1)
    return is_finite


def _is_adjusted(columns: Columns) -> Tensor:
    is_penalised = (columns.presence != 0) | (columns.frequency != 0) | (columns.repetition != 1)
    return is_penalised | (columns.num_biases > 0)


def _penalise(scores: Tensor, rows: SampledRows, columns: Columns, token_ids: Tensor) -> None:
    """Repetition over prompt and output (Keskar et al., "CTRL", section 4.1); frequency and
    presence over the output, as OpenAI's API defines them.
    """
    if scores.numel() == 0:
        return
    num_output, is_seen = _count_tokens(scores, rows, columns, token_ids)
    repetition = columns.repetition[:, None].to(scores.dtype)
    repeated = torch.where(scores > 0, scores / repetition, scores * repetition)
    scores.copy_(torch.where(is_seen, repeated, scores))
    scores -= columns.frequency[:, None] * num_output
    scores -= columns.presence[:, None] * (num_output > 0)


def _count_tokens(
    scores: Tensor, rows: SampledRows, columns: Columns, token_ids: Tensor
) -> tuple[Tensor, Tensor]:
    """How often each token is in the output, and whether it is in the prompt or output.

    ``[P, V]`` both. Adding ones is exact, in whatever order a device does it.
    """
    positions = torch.arange(int(rows.positions.max()), device=scores.device)
    tokens = token_ids[rows.row_ids, : len(positions)].long()
    is_known = (positions < rows.positions[:, None]).to(scores.dtype)
    is_output = (positions >= columns.num_prompt_tokens[:, None]).to(scores.dtype) * is_known
    zeros = torch.zeros_like(scores)
    return zeros.scatter_add(1, tokens, is_output), zeros.scatter_add(1, tokens, is_known) > 0


def _bias(scores: Tensor, rows: SampledRows, columns: Columns, table: SamplingTable) -> None:
    most = int(columns.num_biases.max()) if scores.numel() else 0
    is_meant = torch.arange(most, device=scores.device) < columns.num_biases[:, None]
    token_ids = table.bias_ids[rows.row_ids, :most].masked_fill(~is_meant, 0)
    biases = table.bias_values[rows.row_ids, :most].masked_fill(~is_meant, 0)
    scores.scatter_add_(1, token_ids.long(), biases.to(scores.dtype))


def _draw(scores: Tensor, columns: Columns, positions: Tensor, categorical: Categorical) -> Tensor:
    """``[D]`` int64: tokens drawn by the scores over the temperature, less the largest."""
    offsets = positions - columns.num_prompt_tokens
    uniforms = uniforms_reference(columns.seed, columns.index.long() & 0xFFFFFFFF, offsets)
    is_cut = (columns.top_k > 0) | (columns.top_p < 1) | (columns.min_p > 0)
    if not is_cut.any():
        return categorical(scores, uniforms)
    token_ids = torch.empty(len(scores), dtype=torch.int64, device=scores.device)
    at = (~is_cut).nonzero().squeeze(1)
    if at.numel():
        token_ids[at] = categorical(scores[at], uniforms[at])
    at = is_cut.nonzero().squeeze(1)
    bounds = Bounds(columns.min_p[at], columns.top_k[at].long(), columns.top_p[at])
    token_ids[at] = draw_within(scores[at], bounds, uniforms[at], categorical)
    return token_ids


def _logprobs(token_ids: Tensor, scores: Tensor, columns: Columns, most: int) -> Logprobs:
    at = (columns.num_logprobs >= 0).nonzero().squeeze(1)
    logprobs = scores[at].log_softmax(-1)
    top = logprobs.topk(min(most, scores.shape[1]))
    chosen = logprobs.gather(1, token_ids[at, None]).squeeze(1)

    def spread(values: Tensor, dtype: torch.dtype) -> Tensor:
        shape = (len(scores), *values.shape[1:])
        zeros = torch.zeros(shape, dtype=dtype, device=scores.device)
        return zeros.index_copy_(0, at, values.to(dtype))

    f32 = torch.float32
    return Logprobs(spread(chosen, f32), spread(top.indices, torch.int32), spread(top.values, f32))
