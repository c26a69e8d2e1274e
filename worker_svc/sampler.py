"""From logits to tokens: a pipeline of stages, each over the rows that need it.

penalties, logit bias, (log-probabilities), temperature, min_p, top_k and top_p, draw. A row's
token depends on its own logits, tokens, seed and output offset, never on the other rows.
Sums that decide a bound are in float64, and whatever penalties and bias make of finite logits,
scores stay finite. Nothing is counted from step to step: penalties are read off the resident
tokens, the draw's randomness off (seed, index, output offset).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from protos.step import TokenLogprobs
from worker_svc.kernels import Kernels
from worker_svc.needs import Needs
from worker_svc.resident import Resident
from worker_svc.rows import RowTable
from worker_svc.truncate import Bounds, draw_within

# Scores are kept within it: divided by the smallest temperature they are finite in float32 still.
MAX_SCORE = 1e30


@dataclass(frozen=True, slots=True)
class Sampled:
    """What S rows chose.

    Attributes:
        token_ids: ``[S]`` int64, on the device.
        is_finite: ``[S]`` bool; elsewhere the logits (or their sum) were not, and the token means
            nothing.
        logprobs: by position in S, where asked for.
    """

    token_ids: Tensor
    is_finite: Tensor
    logprobs: dict[int, TokenLogprobs]


class Sampler:
    """Chooses one token for each row of logits, by the rows' resident sampling values."""

    def __init__(self, table: RowTable, kernels: Kernels) -> None:
        self._table = table
        self._kernels = kernels

    def sample(self, logits: Tensor, residents: Sequence[Resident]) -> Sampled:
        """``logits [S, V]`` of S sequences, in any floating dtype."""
        token_ids = logits.argmax(-1)
        wide_dtype = torch.promote_types(logits.dtype, torch.float32)
        # One pass tells: a NaN or an infinity stays one in the sum.
        is_finite = torch.isfinite(logits.sum(-1, dtype=wide_dtype))
        special = _where(residents, lambda needs: not needs.is_plain)
        if not special:
            return Sampled(token_ids, is_finite, {})
        chosen = [residents[at] for at in special]
        scores = logits[special].to(wide_dtype).nan_to_num_(0.0, 0.0, 0.0)
        self._penalise(scores, chosen)
        self._bias(scores, chosen)
        scores.nan_to_num_(0.0, MAX_SCORE, -MAX_SCORE).clamp_(-MAX_SCORE, MAX_SCORE)
        picked = self._pick(scores, chosen)
        token_ids[special] = picked
        logprobs = _logprobs(scores, picked, chosen)
        return Sampled(token_ids, is_finite, {special[at]: logprobs[at] for at in logprobs})

    def _penalise(self, scores: Tensor, residents: Sequence[Resident]) -> None:
        """Repetition over prompt and output (Keskar et al., "CTRL", section 4.1); frequency and
        presence over the output, as OpenAI's API defines them.
        """
        at = _where(residents, lambda needs: needs.penalties)
        if not at:
            return
        chosen = [residents[i] for i in at]
        lines = self._lines(chosen)
        num_output, is_seen = self._count_tokens(chosen, lines, scores)
        table, part = self._table, scores[at]
        repetition = table.repetition[lines, None].to(scores.dtype)
        repeated = torch.where(part > 0, part / repetition, part * repetition)
        part = torch.where(is_seen, repeated, part)
        part -= table.frequency[lines, None] * num_output
        part -= table.presence[lines, None] * (num_output > 0)
        scores[at] = part

    def _count_tokens(
        self, residents: Sequence[Resident], lines: Tensor, like: Tensor
    ) -> tuple[Tensor, Tensor]:
        """How often each token is in the output, and whether it is in the prompt or output.

        ``[P, V]`` both. Adding ones is exact, in whatever order a device does it.
        """
        device = like.device
        ends = torch.tensor([r.num_tokens for r in residents], device=device)[:, None]
        starts = (
            ends - torch.tensor([r.num_output_tokens for r in residents], device=device)[:, None]
        )
        places = torch.arange(max(r.num_tokens for r in residents), device=device)
        tokens = self._table.token_ids[lines, : len(places)].long()
        is_known = (places < ends).to(like.dtype)
        is_output = (places >= starts).to(like.dtype) * is_known
        zeros = like.new_zeros((len(residents), like.shape[1]))
        return zeros.scatter_add(1, tokens, is_output), zeros.scatter_add(1, tokens, is_known) > 0

    def _bias(self, scores: Tensor, residents: Sequence[Resident]) -> None:
        for at in _where(residents, lambda needs: needs.bias):
            token_ids, biases = self._table.biases[residents[at].line]
            scores[at, token_ids] += biases.to(scores.dtype)

    def _pick(self, scores: Tensor, residents: Sequence[Resident]) -> Tensor:
        """``[D]`` int64: the likeliest token, or a drawn one."""
        token_ids = scores.argmax(-1)
        at = _where(residents, lambda needs: needs.draw)
        if at:
            token_ids[at] = self._draw(scores[at], [residents[i] for i in at])
        return token_ids

    def _draw(self, scores: Tensor, residents: Sequence[Resident]) -> Tensor:
        table, lines = self._table, self._lines(residents)
        scores = scores / table.temperature[lines, None].to(scores.dtype)
        offsets = torch.tensor([r.num_output_tokens for r in residents], device=scores.device)
        uniforms = self._kernels.uniforms(table.seed[lines], table.index[lines], offsets)
        categorical = self._kernels.categorical
        token_ids = torch.empty_like(lines)
        if at := _where(residents, lambda needs: not needs.cut):
            token_ids[at] = categorical(scores[at], uniforms[at])
        if at := _where(residents, lambda needs: needs.cut):
            cut = lines[at]
            bounds = Bounds(table.min_p[cut], table.top_k[cut], table.top_p[cut])
            token_ids[at] = draw_within(scores[at], bounds, uniforms[at], categorical)
        return token_ids

    def _lines(self, residents: Sequence[Resident]) -> Tensor:
        return torch.tensor([resident.line for resident in residents], device=self._table.device)


def _logprobs(
    scores: Tensor, token_ids: Tensor, residents: Sequence[Resident]
) -> dict[int, TokenLogprobs]:
    """Natural logarithms, by position in the D rows of ``scores``: after penalties and bias."""
    at = _where(residents, lambda needs: needs.logprobs)
    if not at:
        return {}
    logprobs = scores[at].log_softmax(-1)
    counts = [min(residents[i].sampling.num_logprobs, scores.shape[1]) for i in at]
    chosen = logprobs.gather(1, token_ids[at][:, None]).squeeze(1).tolist()
    top = logprobs.topk(max(counts))
    likeliest = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return {
        position: TokenLogprobs(logprob, tuple(zip(ids[:count], values[:count], strict=True)))
        for position, logprob, count, (ids, values) in zip(
            at, chosen, counts, likeliest, strict=True
        )
    }


def _where(residents: Sequence[Resident], is_meant: Callable[[Needs], bool]) -> list[int]:
    return [at for at, resident in enumerate(residents) if is_meant(resident.needs)]
