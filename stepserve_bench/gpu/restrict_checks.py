"""Cases of ``restrict``: masks of some rows, whole words of them set or not."""

from __future__ import annotations

import torch

from stepserve_bench.gpu.case import DTYPES, Case, Outputs
from stepserve_bench.gpu.setup import Setup
from worker_svc.kernels import Kernels
from worker_svc.kernels.restrict import WORD_BITS, Restriction

NUM_ROWS, NUM_MASKS = 48, 20
VOCABULARIES = (257, 32000, 151936)
FLOOR = -30000.0


def restrict_cases(_: Setup) -> list[Case]:
    """Vocabularies of several sizes, in every dtype."""
    return [_case(size, dtype) for size in VOCABULARIES for dtype in DTYPES]


def _case(vocab_size: int, dtype: torch.dtype) -> Case:
    def compute(tested: Kernels, reference: Kernels, device: torch.device) -> Outputs:
        generator = torch.Generator().manual_seed(vocab_size)
        logits = torch.randn((NUM_ROWS, vocab_size), generator=generator).to(dtype).to(device)
        shape = NUM_MASKS, -(-vocab_size // WORD_BITS)
        masks = torch.randint(-(2**31), 2**31, shape, generator=generator).int()
        masks[torch.rand(shape, generator=generator) < 0.6] = 0
        masks[torch.rand(shape, generator=generator) < 0.2] = -1
        at = torch.randperm(NUM_ROWS, generator=generator)[:NUM_MASKS].int()
        floors = torch.full((NUM_MASKS,), FLOOR)
        restriction = Restriction(at.to(device), masks.to(device), floors.to(device))
        ours, theirs = logits.clone(), logits.clone()
        tested.restrict(ours, restriction)
        reference.restrict(theirs, restriction)
        return [ours], [theirs]

    name = str(dtype).removeprefix("torch.")
    return Case("restrict", f"{NUM_MASKS} rows of {vocab_size} {name}", 0.0, compute)
