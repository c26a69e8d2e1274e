"""The processes that have a stage's layers side by side, as what they compute together sees them.

Source: Shoeybi et al., "Megatron-LM: Training Multi-Billion Parameter Language Models Using Model
Parallelism", section 3: two sums over the ranks a layer are all that they exchange.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup, Work


class RankGone(Exception):
    """Another rank has ended, or can't be reached."""


class Ranks(Protocol):
    """``size`` processes, this one being ``rank``. All of them make the same calls in one order.

    A call waits for the others, and raises RankGone where one of them has ended.
    """

    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...

    def all_reduce(self, x: Tensor) -> Tensor:
        """The sum of every rank's ``x``, the same numbers on each; ``x`` may be overwritten."""

    def all_gather(self, x: Tensor) -> Tensor:
        """``[size, *x.shape]``: every rank's ``x``, all of one shape and dtype."""


class LoneRank:
    """One process that has all of its stage: what it has is the sum, and nobody is waited for."""

    rank, size = 0, 1

    def all_reduce(self, x: Tensor) -> Tensor:
        return x

    def all_gather(self, x: Tensor) -> Tensor:
        return x[None]


class GroupRanks:
    """The ranks of a group of torch.distributed."""

    def __init__(self, group: ProcessGroup) -> None:
        self._group = group
        self.rank, self.size = group.rank(), group.size()

    def all_reduce(self, x: Tensor) -> Tensor:
        x = x.contiguous()
        if x.numel():
            self._wait_for(self._group.allreduce([x]))
        return x

    def all_gather(self, x: Tensor) -> Tensor:
        gathered = torch.empty((self.size, *x.shape), dtype=x.dtype, device=x.device)
        if x.numel():
            self._wait_for(self._group.allgather([list(gathered.unbind())], [x.contiguous()]))
        return gathered

    def _wait_for(self, work: Work) -> None:
        """On a GPU only its stream waits."""
        try:
            work.wait()
        except RuntimeError as error:  # of torch
            raise RankGone("another rank of the stage has ended") from error


LONE = LoneRank()
