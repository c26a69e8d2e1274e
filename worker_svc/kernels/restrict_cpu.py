"""``restrict`` for CPUs, compiled by Numba: words that forbid nothing are skipped."""

from __future__ import annotations

import torch
from torch import Tensor

from worker_svc.kernels.compiled import Array, compiled
from worker_svc.kernels.restrict import WORD_BITS, Restriction, restrict_reference


def restrict_cpu(logits: Tensor, restriction: Restriction, begin: int = 0) -> None:
    """``restrict_reference`` for float32 and float64; 16 bits take the reference itself."""
    if logits.dtype not in (torch.float32, torch.float64):
        restrict_reference(logits, restriction, begin)
        return
    at, masks, floors = restriction
    _restrict(logits.numpy(), at.numpy(), masks.numpy(), floors.numpy(), begin)


@compiled()
def _restrict(logits: Array, at: Array, masks: Array, floors: Array, begin: int) -> None:
    num_tokens = logits.shape[1]
    last_word = (begin + num_tokens - 1) // WORD_BITS
    for row in range(at.shape[0]):
        line, floor = logits[at[row]], floors[row]
        for number in range(begin // WORD_BITS, last_word + 1):
            word = masks[row, number]
            if word == -1:
                continue
            first = number * WORD_BITS - begin
            for bit in range(max(0, -first), min(WORD_BITS, num_tokens - first)):
                if not (word >> bit) & 1:
                    line[first + bit] = floor
