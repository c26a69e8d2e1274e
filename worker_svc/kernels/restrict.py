"""Rows that may not choose every token: the scores of the others become what none is chosen by."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

# Tokens in a word of a mask.
WORD_BITS = 32


class Restriction(NamedTuple):
    """What M of a step's rows may choose.

    Attributes:
        at: ``[M]`` int32, which rows of the logits.
        masks: ``[M, W]`` int32: bit ``t % 32`` of word ``t // 32`` is set where token t may be
            chosen. W is enough for the whole vocabulary.
        floors: ``[M]`` float32, the score of every other token; NaN where there is no token left,
            which ends the sequence.
    """

    at: Tensor
    masks: Tensor
    floors: Tensor


class Restrict(Protocol):
    """Writes the floors into ``logits [S, n]``, which are of the tokens from ``begin`` on."""

    def __call__(self, logits: Tensor, restriction: Restriction, begin: int = 0) -> None: ...


def restrict_reference(logits: Tensor, restriction: Restriction, begin: int = 0) -> None:
    """See ``Restrict``."""
    at, masks, floors = restriction
    token_ids = torch.arange(begin, begin + logits.shape[1], device=logits.device)
    words = masks[:, token_ids // WORD_BITS]
    may_be = ((words >> (token_ids % WORD_BITS)) & 1).bool()
    rows = at.long()
    logits[rows] = torch.where(may_be, logits[rows], floors[:, None].to(logits.dtype))
