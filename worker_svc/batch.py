"""One step's tokens, as the model takes them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from worker_svc.kernels import Ragged


@dataclass(frozen=True, slots=True)
class Batch:
    """The T tokens of a step's rows, laid end to end, and the S of them that are sampled after.

    Attributes:
        token_ids: ``[T]`` int64.
        positions: ``[T]`` int32, each token's index in its sequence.
        slots: ``[T]`` int32 or int64, where its key and value are written; below zero: nowhere.
        ragged: the rows the tokens belong to, and their blocks.
        sample_positions: ``[S]`` int64, indices into T: whose logits are wanted.
    """

    token_ids: Tensor
    positions: Tensor
    slots: Tensor
    ragged: Ragged
    sample_positions: Tensor
