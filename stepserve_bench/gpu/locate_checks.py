"""Cases of ``locate``: tokens and slots of rows, some of which have ended."""

from __future__ import annotations

import torch

from stepserve_bench.gpu.case import Case, Outputs
from stepserve_bench.gpu.setup import Setup
from worker_svc.kernels import Kernels
from worker_svc.kernels.locate import RowTables

NUM_LINES, NUM_TOKENS, BLOCK_SIZES = 64, 2048, (1, 16, 24)
MAX_BLOCKS = 48


def locate_cases(_: Setup) -> list[Case]:
    """Blocks of several sizes."""
    return [_case(size) for size in BLOCK_SIZES]


def _case(block_size: int) -> Case:
    def compute(tested: Kernels, reference: Kernels, device: torch.device) -> Outputs:
        generator = torch.Generator().manual_seed(block_size)
        max_context = MAX_BLOCKS * block_size

        def drawn(below: int, *sizes: int) -> torch.Tensor:
            return torch.randint(below, sizes, generator=generator).int().to(device)

        tables = RowTables(
            token_ids=drawn(1000, NUM_LINES, max_context),
            block_tables=drawn(100_000, NUM_LINES, MAX_BLOCKS),
            has_ended=drawn(2, NUM_LINES),
            block_size=block_size,
        )
        tokens = drawn(NUM_LINES, NUM_TOKENS), drawn(max_context, NUM_TOKENS)
        return tested.locate(*tokens, tables), reference.locate(*tokens, tables)

    return Case("locate", f"{NUM_TOKENS} tokens, blocks of {block_size}", 0.0, compute)
