"""A vocabulary of which each rank has a run of tokens: what is chosen is the same on all of them.

No rank sees another's logits. Of a row that takes the likeliest token, penalised or not, a score
and an id are gathered from each; of a draw from the whole vocabulary a mass, and then the token
of the one rank where the cumulative distribution passes the target; of a draw that is cut, each
one's likeliest tokens, among which are the likeliest of all, so that every rank draws the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worker_svc.kernels.ranks import Ranks
from worker_svc.kernels.vocabulary import Best, Categorical, Top, best_of

# The largest number below one.
ALMOST_ONE = 1 - 2.0**-53


@dataclass(frozen=True, slots=True)
class VocabularyShare:
    """The tokens ``begin`` to ``begin + size`` of ``num_all``, in the order of the ranks.

    A rank has at least one, and at most one more than another.
    """

    ranks: Ranks
    begin: int
    size: int
    num_all: int
    categorical: Categorical

    def embed(self, embedding: Tensor, token_ids: Tensor) -> Tensor:
        at, is_own = self._own(token_ids)
        return self.ranks.all_reduce(embedding[at].where(is_own[:, None], 0))

    def num_tokens(self, scores: Tensor) -> int:
        del scores
        return self.num_all

    def best(self, scores: Tensor) -> Best:
        values, token_ids, is_finite = best_of(scores)
        # float64 holds each of them exactly.
        columns = (values.double(), (token_ids + self.begin).double(), is_finite.double())
        gathered = self.ranks.all_gather(torch.stack(columns))
        winner = gathered[:, 0].argmax(0, keepdim=True)  # of equals the first rank's
        scores_of_all, ids_of_all = (
            gathered[:, column].gather(0, winner).squeeze(0) for column in (0, 1)
        )
        return Best(
            scores_of_all.to(scores.dtype), ids_of_all.long(), gathered[:, 2].amin(0).bool()
        )

    def top(self, scores: Tensor, width: int) -> Top:
        # The same width on every rank: it has as many, or is filled up with what nobody draws.
        num_each = min(width, -(-self.num_all // self.ranks.size))
        own = scores.topk(min(num_each, self.size))
        columns = torch.zeros((2, len(scores), num_each), dtype=torch.float64, device=scores.device)
        columns[0] = -torch.inf
        columns[0, :, : own.values.shape[1]] = own.values
        columns[1, :, : own.values.shape[1]] = own.indices + self.begin
        gathered = self.ranks.all_gather(columns)
        values, token_ids = gathered.permute(1, 2, 0, 3).flatten(2).unbind()
        values, order = values.topk(width)
        return Top(values.to(scores.dtype), token_ids.gather(1, order).long())

    def total(self, sums: Tensor) -> Tensor:
        return self.ranks.all_gather(sums).sum(0)

    def take(self, scores: Tensor, token_ids: Tensor) -> Tensor:
        at, is_own = self._own(token_ids[:, None])
        taken = scores.gather(1, at).where(is_own, 0).squeeze(1)
        return self.ranks.all_gather(taken).sum(0)

    def add(self, scores: Tensor, token_ids: Tensor, values: Tensor) -> None:
        at, is_own = self._own(token_ids)
        scores.scatter_add_(1, at, values.where(is_own, 0))

    def draw(self, scores: Tensor, uniforms: Tensor) -> Tensor:
        masses = scores.exp().sum(-1, dtype=torch.float64)
        gathered = self.ranks.all_gather(masses)
        ends = gathered.cumsum(0)
        targets = uniforms.double() * ends[-1]
        # The first rank that passes the target; rounding may leave none: then the last with a mass.
        has_mass = gathered > 0
        passes = (ends > targets) & has_mass
        numbers = torch.arange(self.ranks.size, device=scores.device)[:, None]
        last = torch.where(has_mass, numbers, 0).amax(0)
        owner = torch.where(passes.any(0), passes.to(torch.uint8).argmax(0), last)
        own_uniforms = (targets - (ends[self.ranks.rank] - masses)) / masses
        drawn = self.categorical(scores, own_uniforms.nan_to_num().clamp(0, ALMOST_ONE))
        own = torch.where(owner == self.ranks.rank, drawn + self.begin, 0)
        return self.ranks.all_gather(own).sum(0)

    def _own(self, token_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Where the tokens' scores are, and whether they are here at all."""
        at = token_ids - self.begin
        return at.clamp(0, self.size - 1), (at >= 0) & (at < self.size)
