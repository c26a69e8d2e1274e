"""Which tokens may be drawn: min_p, top_k and top_p, in this order.

Each row's result depends on that row alone. Tokens that are exactly as likely as the last one
kept are kept with it, so the order in which a sort leaves equals decides nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

# A nucleus is rarely wider: the vocabulary is sorted only for the rows whose is.
NARROW_WIDTH = 256


def drop_below_min_p(scores: Tensor, min_p: Tensor) -> Tensor:
    """-inf where a token is less than ``min_p`` times as likely as the likeliest.

    ``scores [D, V]`` are logits over the temperature; ``min_p [D]`` is in [0, 1].
    """
    floor = scores.amax(-1) + min_p.to(scores.dtype).log()
    return scores.masked_fill(scores < floor[:, None], -torch.inf)


def keep_top(scores: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """-inf outside the ``top_k`` likeliest, and of these outside the likeliest ``top_p`` of mass.

    ``scores [D, V]``; ``top_k [D]`` int64, 0 is all; ``top_p [D]`` in (0, 1], 1 is all. The
    token that reaches ``top_p`` is kept (Holtzman et al., "The Curious Case of Neural Text
    Degeneration", section 3.1).
    """
    vocab_size = scores.shape[1]
    top_k = torch.where(top_k == 0, vocab_size, top_k).clamp(max=vocab_size)
    lowest, is_sure = _lowest_kept(scores, top_k, top_p, min(NARROW_WIDTH, vocab_size))
    wider = (~is_sure).nonzero().squeeze(1)
    if wider.numel():
        lowest[wider], _ = _lowest_kept(scores[wider], top_k[wider], top_p[wider], vocab_size)
    return scores.masked_fill(scores < lowest[:, None], -torch.inf)


def _lowest_kept(scores: Tensor, top_k: Tensor, top_p: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The lowest score kept ``[D]``, and whether the ``width`` likeliest were enough to tell.

    Masses are summed in float64: at a row's bound the order of summation must not matter.
    """
    values = scores.topk(width).values
    in_top_k = torch.arange(width, device=scores.device) < top_k[:, None]
    masses = (values - values[:, :1]).to(torch.float64).exp() * in_top_k
    reached = masses.cumsum(-1)
    total = (scores - values[:, :1]).exp().sum(-1, dtype=torch.float64)
    total = torch.where(top_k <= width, reached[:, -1], total)
    target = torch.where(top_p < 1, top_p * total, torch.inf)
    kept = in_top_k & (reached - masses < target[:, None])
    lowest = values.gather(1, kept.sum(-1, keepdim=True) - 1).squeeze(1)
    # The mass of a top_k between width and the whole vocabulary is not known here.
    is_whole = top_k >= scores.shape[1]
    return lowest, (top_k <= width) | (is_whole & (reached[:, -1] >= target))
