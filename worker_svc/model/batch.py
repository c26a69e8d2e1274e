"""One step's tokens, as the model takes them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from worker_svc.kernels import Context


@dataclass(frozen=True, slots=True)
class Batch:
    """The T tokens of a step's rows, as a layout lays them, and the S that are sampled after.

    Attributes:
        token_ids: ``[T]`` int64.
        positions: ``[T]`` int32, each token's index in its sequence.
        slots: ``[T]`` int32 or int64, where its key and value are written; below zero: nowhere.
        context: the rows the tokens belong to, and their blocks, as the attention takes them.
        sample_positions: ``[S]`` int64, indices into T: whose logits are wanted.
        num_context: key positions that attention reads in each layer, padding included.
    """

    token_ids: Tensor
    positions: Tensor
    slots: Tensor
    context: Context
    sample_positions: Tensor
    num_context: int

    @property
    def num_positions(self) -> int:
        """T: what goes through the token-wise layers, padding included."""
        return self.token_ids.shape[0]
