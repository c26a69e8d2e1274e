"""One draw per row from truncated logits: the inverse of the cumulative distribution.

Tokens are passed in vocabulary order and the drawn one is the first at which the cumulative
probability exceeds the row's uniform number: a pure function of (logits, uniform), the same in
any batch. Sums are in float64, so that a long tail of small probabilities is not lost.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Scores are kept within it: over the smallest temperature they are finite in float32 still.
MAX_SCORE = 1e30


def categorical_reference(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Draw one id per row.

    Args:
        logits: ``[S, V]`` floating; a token that must not be drawn is ``-inf``; every row has a
            finite one.
        uniforms: ``[S]`` float32 or float64 in ``[0, 1)``.

    Returns:
        ``[S]`` int64 ids, each with a probability above zero.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    weights = (wide - wide.max(-1, keepdim=True).values).exp().to(torch.float64)
    cumulative = weights.cumsum(-1)
    targets = uniforms.to(torch.float64)[:, None] * cumulative[:, -1:]
    possible = weights > 0
    passed = (cumulative > targets) & possible
    # Rounding may leave no token past the target: then it is the last possible one.
    token_ids = torch.arange(logits.shape[1], device=logits.device)
    last = torch.where(possible, token_ids, 0).amax(-1)
    return torch.where(passed.any(-1), passed.to(torch.uint8).argmax(-1), last)
