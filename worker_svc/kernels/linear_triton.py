"""The matrix product of a projection for one row: all that counts is to read the weights fast.

A decode step of one row reads every weight once for next to no arithmetic. cuBLAS reaches 8 to 80 %
of the memory's rate in such products; here a program takes an output or some over all inputs, so
nothing is split, and the programs are many. From two rows on torch's own is as fast.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from worker_svc.kernels.early_triton import starts_early, wait_for_others
from worker_svc.kernels.linear import linear_reference


@dataclass(frozen=True, slots=True)
class LinearTile:
    """How a kernel is launched: outputs a program, inputs at a time, Triton's option."""

    num_outputs: int
    num_inputs: int
    num_warps: int


# Measured on an H200, 2026-11-26: the best or within 3 % of it for every projection of Qwen3-0.6B
# and 8B that was timed.
SHORT = LinearTile(num_outputs=2, num_inputs=1024, num_warps=4)
LONG = LinearTile(num_outputs=1, num_inputs=2048, num_warps=8)
# What ``bench gpu`` measures beside them.
CANDIDATES = [
    *(LinearTile(outputs, 1024, 4) for outputs in (1, 2, 4, 8)),
    *(LinearTile(outputs, 512, 2) for outputs in (2, 4)),
    *(LinearTile(outputs, 2048, 8) for outputs in (1, 2, 4)),
]


def linear_triton(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``linear_reference``; sums of 16-bit numbers are in float32."""
    if x.shape[0] != 1 or x.element_size() != 2 or weight.stride(0) != 1:
        return linear_reference(x, weight, bias)
    return linear_one_row(x, weight, bias, SHORT if x.shape[1] <= 2048 else LONG)


def linear_one_row(x: Tensor, weight: Tensor, bias: Tensor | None, tile: LinearTile) -> Tensor:
    """The same with a tile of one's own, for ``x [1, in]`` of 16-bit numbers."""
    num_inputs, num_outputs = weight.shape
    assert x.shape == (1, num_inputs)
    assert x.stride(1) == weight.stride(0) == 1
    output = torch.empty((1, num_outputs), dtype=x.dtype, device=x.device)
    _one_row_kernel[(triton.cdiv(num_outputs, tile.num_outputs),)](
        x,
        weight,
        weight.stride(1),
        output if bias is None else bias,
        output,
        num_outputs,
        num_inputs,
        bias is not None,
        tile.num_outputs,
        min(tile.num_inputs, triton.next_power_of_2(num_inputs)),
        starts_early(x),
        launch_pdl=starts_early(x),
        num_warps=tile.num_warps,
    )
    return output


@triton.jit
def _one_row_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    weight_stride: int,
    bias: tl.tensor,
    output: tl.tensor,
    num_outputs: tl.constexpr,
    num_inputs: tl.constexpr,
    has_bias: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    early: tl.constexpr,
) -> None:
    """Products are kept apart to the end, so that loads are wide and wait for nothing.

    The first weights are on their way before the input is there.
    """
    outs = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    exists = outs < num_outputs
    lines = weight + outs.to(tl.int64)[:, None] * weight_stride
    ins = tl.arange(0, INPUTS)
    mask = exists[:, None] & (ins < num_inputs)[None, :]
    weights = tl.load(lines + ins[None, :], mask=mask, other=0.0)
    wait_for_others(early)
    values = tl.load(x + ins, mask=ins < num_inputs, other=0.0).to(tl.float32)
    sums = weights.to(tl.float32) * values[None, :]
    for first in range(INPUTS, num_inputs, INPUTS):
        ins = first + tl.arange(0, INPUTS)
        inside = ins < num_inputs
        values = tl.load(x + ins, mask=inside, other=0.0).to(tl.float32)
        weights = tl.load(lines + ins[None, :], mask=exists[:, None] & inside[None, :], other=0.0)
        sums += weights.to(tl.float32) * values[None, :]
    total = tl.sum(sums, 1)
    if has_bias:
        total += tl.load(bias + outs, mask=exists, other=0.0).to(tl.float32)
    tl.store(output + outs, total.to(output.dtype.element_ty), mask=exists)
