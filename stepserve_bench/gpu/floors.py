"""The least time that the card allows: bytes over its copy rate, operations over its matmul rate.

Both rates are measured in the run, on this card: a data sheet's are reached by nobody.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from stepserve_bench.gpu.geometry import Geometry
from stepserve_bench.gpu.timing import launch_us

COPY_BYTES = {"cuda": 1 << 30, "cpu": 64 << 20}
MATMUL_SIZE = {"cuda": 8192, "cpu": 512}


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What the card reaches: bytes a second (read plus written), operations a second."""

    bytes_per_s: float
    flops_per_s: float

    def us(self, num_bytes: float, flops: float = 0.0) -> float:
        """The least microseconds for that much traffic and work, done at once."""
        return max(num_bytes / self.bytes_per_s, flops / self.flops_per_s) * 1e6


# Of a card that is not measured yet: everything is far from it.
UNKNOWN = Ceilings(float("inf"), float("inf"))


def measure_ceilings(device: torch.device) -> Ceilings:
    """A copy of 1 GiB, and a product of two random matrices of 8,192 x 8,192 in bfloat16."""
    return Ceilings(_bytes_per_s(device), _flops_per_s(device))


def _bytes_per_s(device: torch.device) -> float:
    """By a kernel: a plain copy is left to the driver, which takes half as long again."""
    source = torch.randint(2**30, (COPY_BYTES[device.type] // 4,), dtype=torch.int32, device=device)
    target = torch.empty_like(source)
    copy = partial(torch.bitwise_not, source, out=target)
    return 2 * source.nbytes / launch_us([copy], device) * 1e6


def _flops_per_s(device: torch.device) -> float:
    size = MATMUL_SIZE[device.type]
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / launch_us([partial(torch.mm, left, right)], device) * 1e6


def step_us(
    geometry: Geometry, rows: Sequence[tuple[int, int]], ceilings: Ceilings, *, parts: int = 1
) -> float:
    """The floor of one step whose rows compute (tokens, context).

    Weights are read once and each row's context once; its tokens go through every layer.
    ``parts`` steps would compute them in turns, each with its own reading of the weights.
    """
    context = sum(length for _, length in rows)
    traffic = parts * geometry.step_weight_bytes + context * geometry.kv_bytes_per_token
    return ceilings.us(traffic, geometry.step_flops(rows))


def run_s(
    geometry: Geometry, lengths: Sequence[tuple[int, int]], max_step_tokens: int, ceilings: Ceilings
) -> float:
    """The floor of a whole run, for jobs of (prompt, output) tokens that all have a place.

    Prompts first, in steps of ``max_step_tokens``, then a step for each further token; the first
    token comes with the prompt's last step.
    """
    prompts = [(prompt, prompt) for prompt, _ in lengths]
    num_chunks = -(-sum(count for count, _ in prompts) // max_step_tokens)
    total_us = step_us(geometry, prompts, ceilings, parts=num_chunks)
    for number in range(1, max(output for _, output in lengths)):
        rows = [(1, prompt + number) for prompt, output in lengths if output > number]
        total_us += step_us(geometry, rows, ceilings)
    return total_us / 1e6


def share(floor: float, measured: float) -> float:
    """The floor as a share of what was measured: 1 is as fast as the card allows."""
    return float(f"{floor / measured:.3g}") if measured else 0.0


def median(values: Sequence[float]) -> float:
    """The middle value."""
    return statistics.median(values)
