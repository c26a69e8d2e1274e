"""The log-probabilities of a prompt's tokens: of hidden states that no token is chosen by."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stepserve.protocol.prompt_logprobs import PromptLogprobs
from worker_svc.core.residents import Row
from worker_svc.kernels.choice import Logprobs
from worker_svc.kernels.choose import logprobs_reference
from worker_svc.model.model import Model
from worker_svc.step.staging import pack

# Tokens whose logits are in memory together: what a chunk's all take could be gigabytes.
MAX_AT_ONCE = 64


def num_scored(rows: Sequence[Row]) -> int:
    """Tokens whose log-probabilities are wanted, K of all rows."""
    return sum(row.num_scored for row in rows)


def num_likeliest(rows: Sequence[Row], vocab_size: int) -> int:
    """The most that a row wants in each place; -1 where there is no row."""
    most = max((row.resident.sampling.prompt_logprobs for row in rows), default=-1)
    return min(most, vocab_size)


def split_scored(hidden: Tensor, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """States that tokens are chosen by, and those behind them, by which prompts are scored."""
    num_others = len(hidden) - num_scored(rows)
    return hidden[:num_others], hidden[num_others:]


def score(model: Model, hidden: Tensor, rows: Sequence[Row]) -> Logprobs:
    """What the rows' tokens had for log-probabilities, and the likeliest in their places.

    ``hidden [K, H]`` are the states before each of them, row after row. All ranks make the same
    calls.
    """
    (token_ids,) = pack([[i for row in rows for i in row.scored_token_ids]], model.device)
    most = num_likeliest(rows, model.vocab_size)
    vocabulary = model.kernels.vocabulary
    parts = [
        logprobs_reference(model.logits(states), targets.long(), most, vocabulary)
        for states, targets in zip(
            torch.split(hidden, MAX_AT_ONCE), torch.split(token_ids, MAX_AT_ONCE), strict=True
        )
    ]
    return Logprobs(*map(torch.cat, zip(*parts, strict=True)))


def scores_of(found: Logprobs, rows: Sequence[Row]) -> list[PromptLogprobs]:
    """Each row's part of what lies in the host's memory."""
    counts = [row.num_scored for row in rows]
    parts = [torch.split(part, counts) for part in found]
    return [
        _packed(row.resident.sampling.prompt_logprobs, *part)
        for row, *part in zip(rows, *parts, strict=True)
    ]


def _packed(num_top: int, logprobs: Tensor, top_ids: Tensor, top: Tensor) -> PromptLogprobs:
    parts = (logprobs, top_ids[:, :num_top], top[:, :num_top])
    return PromptLogprobs(*(part.contiguous().numpy().tobytes() for part in parts))
