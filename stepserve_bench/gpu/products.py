"""Products of few rows: ours (of one) beside cuBLAS and the time that reading the weights takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor

from stepserve_bench.gpu.floors import share
from stepserve_bench.gpu.geometry import Geometry
from stepserve_bench.gpu.setup import Row, Setup
from stepserve_bench.gpu.timing import launch_us, num_copies
from worker_svc.kernels import select
from worker_svc.kernels.linear import linear_reference

NUM_ROWS = (1, 4, 16, 64)
SHOWN = 4


def products(setup: Setup) -> Iterator[Row]:
    """Yield each projection of each model by rows; on a GPU with the best of the candidates."""
    for geometry in setup.geometries:
        for name, sizes in _projections(geometry).items():
            weights = _weights(setup, sizes)
            for num_rows in (4,) if setup.is_small else NUM_ROWS:
                yield _row(setup, f"{geometry.name} {name}", weights, num_rows)


def _projections(geometry: Geometry) -> Mapping[str, tuple[int, int]]:
    """(inputs, outputs) of what is multiplied in a step."""
    heads = geometry.num_attention_heads * geometry.head_dim
    kv_heads = geometry.num_key_value_heads * geometry.head_dim
    hidden, inner = geometry.hidden_size, geometry.intermediate_size
    return {
        "qkv": (hidden, heads + 2 * kv_heads),
        "output": (heads, hidden),
        "gate_up": (hidden, 2 * inner),
        "down": (inner, hidden),
        "vocabulary": (hidden, geometry.vocab_size),
    }


def _weights(setup: Setup, sizes: tuple[int, int]) -> list[Tensor]:
    num_inputs, num_outputs = sizes
    size = num_inputs * num_outputs * setup.dtype.itemsize
    return [
        torch.randn(num_outputs, num_inputs, dtype=setup.dtype, device=setup.device).t()
        for _ in range(num_copies(size) if setup.is_gpu else 1)
    ]


def _row(setup: Setup, name: str, weights: list[Tensor], num_rows: int) -> Row:
    x = torch.randn(num_rows, weights[0].shape[0], dtype=setup.dtype, device=setup.device)
    floor_us = setup.ceilings.us(weights[0].nbytes)

    def timed(multiply: Callable[..., Tensor]) -> float:
        return launch_us([partial(multiply, x, w, None) for w in weights], setup.device)

    ours, theirs = timed(setup.kernels().linear), timed(linear_reference)
    row: Row = {
        "what": name,
        "rows": num_rows,
        "us": ours,
        "torch_us": theirs,
        "floor_us": floor_us,
        "share": share(floor_us, ours),
        "figures": {f"{name} x {num_rows} us": ours},
    }
    return row | _candidates(setup, x, weights) if setup.is_gpu and num_rows == 1 else row


def _candidates(setup: Setup, x: Tensor, weights: list[Tensor]) -> Row:
    """What other tiles take, the best first."""
    from worker_svc.kernels.linear_triton import CANDIDATES, linear_one_row

    wanted = select("torch", setup.device).linear(x, weights[0], None).float()
    found = []
    for tile in CANDIDATES:
        if setup.left_s < 0:
            break
        drawn = linear_one_row(x, weights[0], None, tile).float()
        assert torch.allclose(drawn, wanted, rtol=2e-2, atol=0.5)
        calls = [partial(linear_one_row, x, weight, None, tile) for weight in weights]
        found.append((round(launch_us(calls, setup.device), 2), str(tile)))
    found.sort()
    return {"best": [f"{us} {tile}" for us, tile in found[:SHOWN]], "all": found}
