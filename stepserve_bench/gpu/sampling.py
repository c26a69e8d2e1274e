"""Choosing tokens: the whole sampler for each kind of request, beside one reading of the logits."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from stepserve_bench.gpu.floors import share
from stepserve_bench.gpu.sampled import Kind, kinds, random_logits, rows_on, table_of
from stepserve_bench.gpu.setup import Row, Setup
from stepserve_bench.gpu.timing import Launch, eager_us, launch_us, wall_us
from worker_svc.kernels import Kernels
from worker_svc.step.sampler import Sampler

VOCAB_SIZE, SMALL_VOCAB_SIZE = 151936, 1000
NUM_ROWS = (1, 16, 64, 256)
EAGER_CALLS = 30


def sampling(setup: Setup) -> Iterator[Row]:
    """Yield a row for each kind and number of rows: on the device, and as the host launches it."""
    kernels = setup.kernels()
    for kind in kinds():
        for num_rows in (4,) if setup.is_small else NUM_ROWS:
            yield _row(setup, kernels, kind, num_rows)


def _row(setup: Setup, kernels: Kernels, kind: Kind, num_rows: int) -> Row:
    vocab_size = SMALL_VOCAB_SIZE if setup.is_small else VOCAB_SIZE
    sampler = Sampler(table_of(kind, num_rows, vocab_size, setup.device), kernels)
    logits = random_logits(num_rows, vocab_size, setup.dtype, setup.device)
    rows = rows_on(setup.device, num_rows)

    def choose() -> None:
        sampler.advance(sampler.choose(logits, rows, kind.needs), rows)

    mode, measured = _timed(choose, setup)
    floor = setup.ceilings.us(logits.nbytes)
    return {
        "what": kind.name,
        "rows": num_rows,
        "mode": mode,
        "us": measured,
        "host_us": wall_us(choose, EAGER_CALLS if setup.is_gpu else 3),
        "floor_us": floor,
        "share": share(floor, measured),
        "figures": {f"{kind.name} x {num_rows} us": measured},
    }


def _timed(choose: Launch, setup: Setup) -> tuple[str, float]:
    """In a graph, where the sampler can be captured; else as the host launches it."""
    try:
        return "graph" if setup.is_gpu else "eager", launch_us([choose], setup.device)
    except RuntimeError:
        torch.cuda.synchronize()
        return "eager", eager_us([choose], EAGER_CALLS)
