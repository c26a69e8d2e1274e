"""Cases of ``paged_attention``: beside float64, with NaN wherever nothing may be read."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import torch

from stepserve_bench.gpu.case import DTYPES, TOLERANCES, Case, Outputs
from stepserve_bench.gpu.inputs import AttentionShape, attention_inputs
from stepserve_bench.gpu.setup import Setup
from worker_svc.kernels import Kernels

MIXED = ((1, 9), (5, 5), (1, 40), (7, 23), (1, 1), (20, 33))
LONG = ((1, 4500), (1, 256), (1, 257), (3, 700), (1, 1), (1, 2049))
CHUNKS = ((300, 300), (64, 1100), (1, 513), (129, 130))
# Every case in every dtype.
SHAPES = (
    AttentionShape(MIXED, 4, 2, 64),
    AttentionShape(MIXED, 7, 1, 128, window=17),
    AttentionShape(MIXED, 3, 3, 80, block_size=32),
    AttentionShape(((1, 9), (0, 7), (2, 200)), 9, 3, 24, block_size=8, window=64),
    AttentionShape(LONG, 16, 8, 128),
    AttentionShape(LONG, 32, 8, 128, window=300),
    AttentionShape(CHUNKS, 16, 8, 128),
    AttentionShape(CHUNKS, 8, 2, 64, block_size=64),
    AttentionShape(((1, 1),), 2, 1, 256, block_size=1),
    AttentionShape(((1, 700), (0, 0), (1, 1025), (0, 0)), 32, 8, 128),
)
SMALL_SHAPES = (SHAPES[0], SHAPES[3])
# Each drawn case in one dtype.
NUM_DRAWN = 18


def attention_cases(setup: Setup) -> list[Case]:
    """Written and drawn shapes; the dearest first."""
    if setup.is_small:
        return [_case(replace(shape, dtype=torch.float32)) for shape in SMALL_SHAPES]
    written = [replace(shape, dtype=dtype) for shape in SHAPES for dtype in DTYPES]
    shapes = written[:: 3 if setup.is_quick else 1]
    if not setup.is_quick:
        shapes += _drawn(NUM_DRAWN)
    return [_case(shape) for shape in shapes]


def _drawn(count: int) -> Iterator[AttentionShape]:
    chance = random.Random(5)
    for number in range(count):
        num_kv_heads = chance.choice((1, 2, 4, 8))
        yield AttentionShape(
            rows=tuple(_row(chance) for _ in range(chance.randint(1, 24))),
            num_heads=num_kv_heads * chance.randint(1, 8),
            num_kv_heads=num_kv_heads,
            head_dim=chance.choice((64, 96, 128, 256)),
            block_size=chance.choice((8, 16, 32, 64)),
            window=chance.choice((0, 0, 1, 64, 300)),
            dtype=DTYPES[number % len(DTYPES)],
        )


def _row(chance: random.Random) -> tuple[int, int]:
    count = chance.choice((1, 1, 1, chance.randint(1, 300)))
    return count, count + chance.choice((0, 0, chance.randint(0, 2000)))


def _case(shape: AttentionShape) -> Case:
    def compute(tested: Kernels, reference: Kernels, device: torch.device) -> Outputs:
        inputs = attention_inputs(shape, device, is_poisoned=True)
        wanted = reference.paged_attention(*inputs.widened().arguments())
        return [tested.paged_attention(*inputs.arguments())], [wanted]

    return Case("paged_attention", str(shape), TOLERANCES[shape.dtype], compute)
