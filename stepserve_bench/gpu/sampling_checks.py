"""Cases of the kernels that choose tokens and note them, for every kind of request."""

from __future__ import annotations

import torch
from torch import Tensor

from stepserve_bench.gpu.case import Case, Outputs
from stepserve_bench.gpu.sampled import Kind, kinds, random_logits, rows_on, table_of
from stepserve_bench.gpu.setup import Setup
from worker_svc.kernels import Kernels
from worker_svc.kernels.choice import Choice
from worker_svc.kernels.scratch import Scratch

VOCABULARIES = (1000, 2500, 151936)
NUM_ROWS, NUM_ADVANCED = 64, 256
# Of rows that may choose otherwise: where a number falls between two orders of the same sums.
DIFFERING = 2.5 / NUM_ROWS
# Log-probabilities are float32, of sums over the vocabulary.
LOGPROB_ERROR = 1e-4


def sampling_cases(setup: Setup) -> list[Case]:
    """Choices from vocabularies of several sizes, and a step's end."""
    sizes = VOCABULARIES[:1] if setup.is_small else VOCABULARIES
    dtypes = (torch.float32,) if setup.is_small else (torch.float32, torch.bfloat16)
    found = [_choose(kind, size, dtype) for kind in kinds() for size in sizes for dtype in dtypes]
    return [*found, Case("advance", f"{NUM_ADVANCED} rows", 0.0, _advance)]


def _choose(kind: Kind, vocab_size: int, dtype: torch.dtype) -> Case:
    def compute(tested: Kernels, reference: Kernels, device: torch.device) -> Outputs:
        chosen = []
        for kernels in (tested, reference):
            table = table_of(kind, NUM_ROWS, vocab_size, device)
            logits = random_logits(NUM_ROWS, vocab_size, dtype, device)
            logits[NUM_ROWS // 2, vocab_size // 3] = float("nan")
            rows = rows_on(device, NUM_ROWS)
            chosen.append(kernels.choose(logits, rows, table, kind.needs, Scratch(device)))
        return _outputs(*chosen)

    label = f"{kind.name}, {NUM_ROWS}x{vocab_size} {str(dtype).removeprefix('torch.')}"
    return Case("choose", label, DIFFERING, compute)


def _outputs(ours: Choice, theirs: Choice) -> Outputs:
    """Which rows differ, as one among ones; what must be equal is, or every row differs."""
    is_sound = theirs.is_finite != 0
    differs = (ours.token_ids != theirs.token_ids) & is_sound
    differs |= (ours.is_finite != 0) != is_sound
    if theirs.logprobs is not None:
        differs |= _logprobs_differ(ours, theirs) & is_sound & ~differs
    share = differs.float().mean().reshape(1)
    return [1 + share, ours.token_ids], [torch.ones_like(share), ours.token_ids]


def _logprobs_differ(ours: Choice, theirs: Choice) -> Tensor:
    if ours.logprobs is None or theirs.logprobs is None:
        return torch.ones_like(theirs.token_ids, dtype=torch.bool)
    differs = (ours.logprobs.chosen - theirs.logprobs.chosen).abs() > LOGPROB_ERROR
    return differs | ((ours.logprobs.top - theirs.logprobs.top).abs() > LOGPROB_ERROR).any(1)


def _advance(tested: Kernels, reference: Kernels, device: torch.device) -> Outputs:
    """Some rows end by their tokens, some have ended, some are not finite, some are padding."""
    found = []
    for kernels in (tested, reference):
        table = table_of(next(kinds()), NUM_ADVANCED, VOCABULARIES[0], device)
        table.has_ended[::5] = 1
        rows = rows_on(device, NUM_ADVANCED)
        rows.row_ids[::7] = -1
        rows.positions[::3] = table.token_ids.shape[1] - 1
        tokens = torch.arange(NUM_ADVANCED, device=device).remainder(13).int()
        is_finite = torch.ones_like(tokens)
        is_finite[::11] = 0
        kernels.advance(Choice(tokens, is_finite), rows, table)
        found.append([table.token_ids, table.has_ended])
    return found[0], found[1]
