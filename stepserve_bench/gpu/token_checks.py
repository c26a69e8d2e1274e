"""Cases of the kernels that work token by token: norms, rotary positions, the products."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stepserve_bench.gpu.case import DTYPES, TOLERANCES, Case, Compute, Outputs
from stepserve_bench.gpu.setup import Setup
from worker_svc.kernels import Kernels, RotaryWrite
from worker_svc.kernels.rotary import HeadNorms

EPS = 1e-5
LINES = ((1, 1), (5, 48), (256, 4096), (2048, 1024), (33, 5120))
# (tokens, inputs, outputs)
MATRICES = ((37, 48, 80), (1, 1024, 4096), (256, 4096, 6144))
WIDTHS = (1, 40, 1500, 12288)
NUM_SMALL = 2
# (query heads, key-value heads, head size)
ROTARY = ((9, 3, 24), (7, 1, 64), (32, 8, 128), (2, 2, 256))
NUM_POSITIONS, NUM_TOKENS, BLOCK_SIZE, NUM_BLOCKS = 400, 300, 8, 64


def token_cases(setup: Setup) -> list[Case]:
    """Cases of every dtype; on a CPU of float32 alone, and the smallest."""
    if setup.is_small:
        return list(_cases(torch.float32, NUM_SMALL))
    return [case for dtype in DTYPES for case in _cases(dtype, None)]


def _cases(dtype: torch.dtype, count: int | None) -> Iterator[Case]:
    for sizes in MATRICES[:count]:
        yield _linear(dtype, sizes)
    for shape in LINES[:count]:
        yield _add_norm(dtype, shape)
    for width in WIDTHS[:count]:
        yield _silu_mul(dtype, width)
    for heads in ROTARY[:count]:
        for has_norms in (False, True):
            yield _rotary(dtype, heads, has_norms)


def _linear(dtype: torch.dtype, sizes: Sequence[int]) -> Case:
    """With a bias, and a weight in the memory order of a checkpoint."""

    def compute(tested: Kernels, reference: Kernels, device: torch.device) -> Outputs:
        num_tokens, num_inputs, num_outputs = sizes
        shapes = ((num_tokens, num_inputs), (num_outputs, num_inputs), (num_outputs,))
        x, matrix, bias = _random(device, dtype, *shapes)
        return [tested.linear(x, matrix.t(), bias)], [
            reference.linear(x.double(), matrix.t().double(), bias.double())
        ]

    return _named("linear", dtype, sizes, compute)


def _add_norm(dtype: torch.dtype, shape: Sequence[int]) -> Case:
    def compute(tested: Kernels, reference: Kernels, device: torch.device) -> Outputs:
        x, residual, weight = _random(device, dtype, shape, shape, shape[-1:])
        arguments = (x, residual, weight, EPS)
        return tested.add_rms_norm(*arguments), reference.add_rms_norm(*arguments)

    return _named("add_rms_norm", dtype, shape, compute)


def _silu_mul(dtype: torch.dtype, width: int) -> Case:
    def compute(tested: Kernels, reference: Kernels, device: torch.device) -> Outputs:
        (x,) = _random(device, dtype, (33, 2 * width))
        return [tested.silu_mul(x * 4)], [reference.silu_mul(x * 4)]

    return _named("silu_mul", dtype, (33, width), compute)


def _rotary(dtype: torch.dtype, heads: tuple[int, int, int], has_norms: bool) -> Case:
    def compute(tested: Kernels, reference: Kernels, device: torch.device) -> Outputs:
        return _rotated(tested, device, case), _rotated(reference, device, case)

    case = _Rotary(dtype, *heads, has_norms)
    return _named("rotary_write", dtype, (*heads, int(has_norms)), compute)


@dataclass(frozen=True, slots=True)
class _Rotary:
    dtype: torch.dtype
    num_heads: int
    num_kv_heads: int
    head_dim: int
    has_norms: bool


def _rotated(kernels: Kernels, device: torch.device, case: _Rotary) -> list[Tensor]:
    """The query, and both caches: a token without a slot writes nothing."""
    head_dim, heads = case.head_dim, [case.num_heads, case.num_kv_heads, case.num_kv_heads]
    shapes = [(NUM_TOKENS, sum(heads), head_dim), *[(NUM_POSITIONS, head_dim // 2)] * 2]
    shapes += [(head_dim,), (head_dim,)]
    fused, cos, sin, query_norm, key_norm = _random(device, case.dtype, *shapes)
    sizes = (2, NUM_BLOCKS, case.num_kv_heads, BLOCK_SIZE, head_dim)
    caches = torch.zeros(sizes, dtype=case.dtype, device=device)
    generator = torch.Generator().manual_seed(3)
    positions = torch.randint(0, NUM_POSITIONS, (NUM_TOKENS,), generator=generator)
    slots = torch.randperm(NUM_BLOCKS * BLOCK_SIZE, generator=generator)[:NUM_TOKENS]
    slots[5] = -1
    query, key, value = torch.split(fused, heads, dim=1)
    targets = positions.int().to(device), slots.int().to(device)
    norms = HeadNorms(query_norm, key_norm, EPS) if case.has_norms else None
    write = RotaryWrite(cos, sin, *targets, caches[0], caches[1], norms)
    kernels.rotary_write(query, key, value, write)
    return [query, caches[0], caches[1]]


def _random(device: torch.device, dtype: torch.dtype, *shapes: Sequence[int]) -> list[Tensor]:
    generator = torch.Generator(device).manual_seed(7)
    return [
        torch.randn(tuple(shape), generator=generator, device=device).to(dtype) for shape in shapes
    ]


def _named(kernel: str, dtype: torch.dtype, shape: Sequence[int], compute: Compute) -> Case:
    label = f"{'x'.join(map(str, shape))} {str(dtype).removeprefix('torch.')}"
    return Case(kernel, label, TOLERANCES[dtype], compute)
