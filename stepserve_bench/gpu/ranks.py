"""Two GPUs as one worker: the load of the 8B section through two stages, and through two ranks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from stepserve_bench.gpu.service import eight_billion
from stepserve_bench.gpu.setup import Row, Setup

NUM_GPUS = 2
FLAGS = {
    "2 stages": f"--pipeline-stages={NUM_GPUS}",
    "2 ranks": f"--tensor-parallel={NUM_GPUS}",
}


def two_ranks(setup: Setup) -> Iterator[Row]:
    """Yield the 8B section's rows for each way to use two GPUs; say so where there are not two."""
    num_gpus = torch.cuda.device_count() if setup.is_gpu else 0
    if num_gpus < NUM_GPUS:
        yield {"what": "two GPUs", "skipped": f"needs {NUM_GPUS} GPUs, here: {num_gpus}"}
        return
    for name, flag in FLAGS.items():
        for row in eight_billion(replace(setup, up=(*setup.up, flag))):
            yield named(row, name)


def named(row: Row, name: str) -> Row:
    """The row under another name than that of one GPU, its figures too."""
    figures = {f"{figure}, {name}": value for figure, value in row.get("figures", {}).items()}
    return row | {"what": f"{row['what']}, {name}"} | ({"figures": figures} if figures else {})
