"""What a worker knows of its model: what steps are computed with, however that is done."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from kvstore.cache import CacheShape, KVCache
from worker_svc.kernels import Kernels
from worker_svc.model.batch import Batch
from worker_svc.model.part import Part


class Model(Protocol):
    """Weights that compute, on one device or on several.

    Everything but ``worker_svc.model`` itself takes this and nothing more of a model.
    """

    @property
    def name(self) -> str:
        """What it is served under where no other name is given."""

    @property
    def fingerprint(self) -> str:
        """Equal where logits are computed from equals; a job goes on only where it is."""

    @property
    def directory(self) -> Path | None:
        """Where its files are, its tokenizer's too; None where it has none."""

    @property
    def part(self) -> Part:
        """Which part of the whole model it is."""

    @property
    def vocab_size(self) -> int:
        """V, the tokens there are."""

    @property
    def hidden_size(self) -> int:
        """Numbers in a hidden state."""

    @property
    def max_context(self) -> int:
        """Tokens of a sequence at most, prompt and output together."""

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""

    @property
    def device(self) -> torch.device:
        """Where it takes batches, and gives hidden states and logits."""

    @property
    def kernels(self) -> Kernels:
        """What it computes with; tokens are located and chosen by the same."""

    def cache_shape(self, block_size: int) -> CacheShape:
        """What a block of ``block_size`` tokens of its KV cache holds."""

    def step_bytes(self, num_rows: int, width: int, context_len: int) -> int:
        """About what a step takes beside weights and cache, where it cannot be measured.

        ``num_rows`` rows of ``width`` tokens each, padding included, whose contexts of
        ``context_len`` tokens are gathered, with one mask for all of them.
        """

    def forward(self, batch: Batch, cache: KVCache, arrived: Tensor | None = None) -> Tensor:
        """Compute a step: write every token's keys and values, return what is sampled from.

        Reads nothing back from the device, so that it may be captured as a graph.

        Args:
            batch: T tokens, S sampled positions.
            cache: this model's KV cache; the batch's slots are written.
            arrived: ``[T, hidden_size]``, what the stage before returned; the first takes none.

        Returns:
            Hidden states ``[S, hidden_size]`` in the order of ``batch.sample_positions``, for
            ``logits``; where the part is not the last stage, ``[T, hidden_size]`` for the next one.
        """

    def logits(self, hidden: Tensor) -> Tensor:
        """``[S, hidden_size]`` to ``[S, V]``; a rank gives those of its own tokens.

        They are for the model's kernels to choose by. Only what is sampled pays for it.
        """
