"""Drawing from part of the vocabulary: min_p, then top_k of what is left, then top_p of that.

Only the likeliest tokens of a row are looked at, more of them where those do not decide it: a
nucleus is rarely wide, and sorting a vocabulary costs more than a small model's step. How far
was looked changes no result, and no row's result depends on another row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worker_svc.kernels.vocabulary import WHOLE, Categorical, Vocabulary

# How many tokens are looked at first, and where those were not enough; then all are.
WIDTHS = (128, 2048)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of D rows: ``min_p [D]`` in [0, 1], ``top_k [D]`` int64 (0: all), ``top_p [D]`` in (0, 1]."""

    min_p: Tensor
    top_k: Tensor
    top_p: Tensor

    def __getitem__(self, rows: Tensor) -> Bounds:
        return Bounds(self.min_p[rows], self.top_k[rows], self.top_p[rows])


@dataclass(frozen=True, slots=True)
class Likeliest:
    """The W likeliest tokens of D rows, likeliest first.

    Attributes:
        scores: ``[D, W]`` logits, -inf for those that may not be drawn.
        token_ids: ``[D, W]`` int64.
        is_sure: ``[D]`` bool: every token that may be drawn is among them.
    """

    scores: Tensor
    token_ids: Tensor
    is_sure: Tensor

    def draw(self, uniforms: Tensor, categorical: Categorical) -> Tensor:
        """``[D]`` ids, drawn in the vocabulary's order as from all of its tokens."""
        token_ids, order = self.token_ids.sort(-1)
        drawn = categorical(self.scores.gather(1, order), uniforms)
        return token_ids.gather(1, drawn[:, None]).squeeze(1)


def draw_within(scores: Tensor, bounds: Bounds, uniforms: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Draw a token of each row.

    Args:
        scores: ``[D, n]`` logits over the temperature, less the largest; float32 or float64.
        bounds: of the D rows.
        uniforms: ``[D]`` in [0, 1).
        vocabulary: what the scores are about.

    Returns:
        ``[D]`` int64.
    """
    num_rows, vocab_size = len(scores), vocabulary.num_tokens(scores)
    drawn = torch.zeros(num_rows, dtype=torch.int64, device=scores.device)
    left = torch.arange(num_rows, device=scores.device)
    for width in (*(width for width in WIDTHS if width < vocab_size), vocab_size):
        part = likeliest(scores[left], bounds[left], width, vocabulary)
        drawn[left] = part.draw(uniforms[left], vocabulary.categorical)
        left = left[~part.is_sure]
        if left.numel() == 0:
            break
    return drawn


def likeliest(
    scores: Tensor, bounds: Bounds, width: int, vocabulary: Vocabulary = WHOLE
) -> Likeliest:
    """Look at the ``width`` likeliest of the vocabulary's tokens.

    The token that reaches ``top_p`` may be drawn (Holtzman et al., "The Curious Case of Neural
    Text Degeneration", section 3.1), and so may those exactly as likely as the last one that
    may: the order in which equals are sorted decides nothing. Masses are summed in float64:
    at a bound the order of summation must not matter either.
    """
    vocab_size = vocabulary.num_tokens(scores)
    top = vocabulary.top(scores, width)
    values = top.values
    top_k = torch.where(bounds.top_k == 0, vocab_size, bounds.top_k).clamp(max=vocab_size)
    floor = values[:, 0] + bounds.min_p.to(scores.dtype).log()
    ranks = torch.arange(width, device=scores.device)
    in_play = (ranks < top_k[:, None]) & (values >= floor[:, None])
    masses = (values - values[:, :1]).to(torch.float64).exp() * in_play
    reached = masses.cumsum(-1)
    is_all_seen = (top_k <= width) | (values[:, -1] < floor)
    total = reached[:, -1]
    if not is_all_seen.all():
        mass = vocabulary.total(_mass(scores, values[:, 0], floor))
        total = torch.where(is_all_seen, total, mass)
    target = torch.where(bounds.top_p < 1, bounds.top_p * total, torch.inf)
    num_kept = (in_play & (reached - masses < target[:, None])).sum(-1, keepdim=True).clamp(min=1)
    lowest = values.gather(1, num_kept - 1)
    # The mass of a top_k that ends between width and the whole vocabulary is not known yet.
    is_total_known = is_all_seen | (top_k == vocab_size)
    is_reached = is_all_seen | (reached[:, -1] >= target)
    is_sure = is_total_known & is_reached & (values[:, -1] < lowest[:, 0])
    return Likeliest(
        scores=values.masked_fill(values < lowest, -torch.inf),
        token_ids=top.indices,
        is_sure=is_sure | (width == vocab_size),
    )


def _mass(scores: Tensor, peak: Tensor, floor: Tensor) -> Tensor:
    """``[D]`` float64: what the tokens at hand not below ``floor`` weigh; the likeliest one: 1."""
    weights = (scores - peak[:, None]).exp_()
    return weights.masked_fill_(scores < floor[:, None], 0.0).sum(-1, dtype=torch.float64)
