"""The vocabulary that logits are about: what choosing a token asks of it.

It is asked by a row's scores, ``[S, n]``: one for each token, or for each that a rank has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from worker_svc.kernels.sampling import categorical_reference

Categorical = Callable[[Tensor, Tensor], Tensor]


class Best(NamedTuple):
    """The likeliest token of each row.

    Attributes:
        scores: ``[S]``, in the dtype of what was asked by.
        token_ids: ``[S]`` int64, the first one of equals.
        is_finite: ``[S]`` bool, whether all of the row's scores are.
    """

    scores: Tensor
    token_ids: Tensor
    is_finite: Tensor


class Top(NamedTuple):
    """The W likeliest tokens: scores and ids ``[S, W]``, likeliest first."""

    values: Tensor
    indices: Tensor


class Vocabulary(Protocol):
    """V tokens; ids are always those of the whole vocabulary.

    ``categorical`` draws from scores that are all at hand, as in ``sampling``.
    """

    @property
    def categorical(self) -> Categorical: ...

    def embed(self, embedding: Tensor, token_ids: Tensor) -> Tensor:
        """``[T, H]``: the lines ``token_ids [T]`` of ``embedding [n, H]``."""

    def num_tokens(self, scores: Tensor) -> int:
        """V, of all tokens."""

    def best(self, scores: Tensor) -> Best:
        """Of ``scores [S, n]``."""

    def top(self, scores: Tensor, width: int) -> Top:
        """The ``width`` likeliest, V at most; in which order equals come is not said."""

    def total(self, sums: Tensor) -> Tensor:
        """What the sums over a row's scores at hand, float64, are over all of them."""

    def take(self, scores: Tensor, token_ids: Tensor) -> Tensor:
        """``[S]``: each row's score of one token, ``token_ids [S]``."""

    def add(self, scores: Tensor, token_ids: Tensor, values: Tensor) -> None:
        """Add ``values [S, N]`` to the scores of ``token_ids [S, N]`` where they lie."""

    def draw(self, scores: Tensor, uniforms: Tensor) -> Tensor:
        """``categorical`` of scores less the row's largest: ``[S]`` int64."""


class WholeVocabulary:
    """All of it is at hand."""

    def __init__(self, categorical: Categorical = categorical_reference) -> None:
        self.categorical = categorical

    def embed(self, embedding: Tensor, token_ids: Tensor) -> Tensor:
        return embedding[token_ids]

    def num_tokens(self, scores: Tensor) -> int:
        return scores.shape[1]

    def best(self, scores: Tensor) -> Best:
        return best_of(scores)

    def top(self, scores: Tensor, width: int) -> Top:
        return Top(*scores.topk(width))

    def total(self, sums: Tensor) -> Tensor:
        return sums

    def take(self, scores: Tensor, token_ids: Tensor) -> Tensor:
        return scores.gather(1, token_ids[:, None]).squeeze(1)

    def add(self, scores: Tensor, token_ids: Tensor, values: Tensor) -> None:
        scores.scatter_add_(1, token_ids, values)

    def draw(self, scores: Tensor, uniforms: Tensor) -> Tensor:
        return self.categorical(scores, uniforms)


def best_of(scores: Tensor) -> Best:
    """Of scores that are all at hand. What is not finite is so in the largest or in the least."""
    token_ids = scores.argmax(-1)
    values = scores.gather(1, token_ids[:, None]).squeeze(1)
    return Best(values, token_ids, torch.isfinite(values) & torch.isfinite(scores.amin(-1)))


WHOLE = WholeVocabulary()
