"""From logits to tokens, all on the device: nothing is read back, no list is made a row.

penalties, logit bias, (log-probabilities), temperature, min_p, top_k and top_p, draw. A row's
token depends on its own logits, tokens, seed and output offset, never on the other rows.
Sums that decide a bound are in float64, and whatever penalties and bias make of finite logits,
scores stay finite. Nothing is counted from step to step: penalties are read off the resident
tokens, the draw's randomness off (seed, index, output offset).
"""

from __future__ import annotations

from torch import Tensor

from worker_svc.core.needs import StepNeeds
from worker_svc.kernels import Kernels
from worker_svc.kernels.choice import Choice, Logprobs, SampledRows, SamplingTable
from worker_svc.kernels.scratch import Scratch

__all__ = ["Choice", "Logprobs", "SampledRows", "Sampler", "SamplingTable", "StepNeeds"]


class Sampler:
    """Chooses one token for each row of logits, by the sampling records of their sequences."""

    def __init__(self, table: SamplingTable, kernels: Kernels) -> None:
        self._table = table
        self._kernels = kernels
        self._scratch = Scratch(table.records.device)

    def choose(self, logits: Tensor, sampled: SampledRows, needs: StepNeeds) -> Choice:
        """``logits [S, V]`` of the S sampled rows, in any floating dtype, tokens contiguous."""
        return self._kernels.choose(logits, sampled, self._table, needs, self._scratch)

    def advance(self, choice: Choice, sampled: SampledRows) -> None:
        """Write the tokens behind their sequences, and mark the sequences that ended."""
        self._kernels.advance(choice, sampled, self._table)
