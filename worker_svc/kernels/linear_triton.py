"""The matrix product of a projection for few rows: all that counts is to read the weights fast.

A decode step of few rows reads every weight once for next to no arithmetic. cuBLAS splits such
products in ways that reach a quarter to four fifths of the memory's rate; here a program takes some
outputs over all inputs, so nothing is split, and the programs are many. More rows are torch's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from worker_svc.kernels.linear import linear_reference

# A matrix unit takes so many rows at once; fewer are padded.
UNIT_ROWS = 16


@dataclass(frozen=True, slots=True)
class LinearTile:
    """How a kernel is launched: outputs a program, inputs at a time, Triton's options."""

    num_outputs: int
    num_inputs: int
    num_warps: int
    num_stages: int


# Chosen by the rule above on an H200; ``bench gpu`` measures others.
ONE_ROW = LinearTile(num_outputs=4, num_inputs=1024, num_warps=4, num_stages=1)
FEW_ROWS = LinearTile(num_outputs=16, num_inputs=256, num_warps=4, num_stages=4)
MAX_ROWS = 16
# What ``bench gpu`` measures beside them.
ONE_CANDIDATES = [
    *(LinearTile(outputs, 1024, 4, 1) for outputs in (1, 2, 4, 8)),
    *(LinearTile(outputs, 512, 4, 1) for outputs in (4, 8, 16)),
    *(LinearTile(outputs, 512, 2, 1) for outputs in (2, 4, 8)),
    *(LinearTile(outputs, 2048, 8, 1) for outputs in (1, 2, 4)),
]
FEW_CANDIDATES = [
    *(LinearTile(16, 256, 4, stages) for stages in (2, 3, 4, 5)),
    *(LinearTile(16, 512, 4, stages) for stages in (2, 3)),
    *(LinearTile(16, 128, 2, stages) for stages in (4, 6)),
    *(LinearTile(32, 128, 4, stages) for stages in (3, 5)),
    *(LinearTile(32, 256, 4, stages) for stages in (2, 3, 4)),
    *(LinearTile(64, 128, 4, stages) for stages in (3, 4)),
]


def linear_triton(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``linear_reference``; sums of 16-bit numbers are in float32."""
    num_rows = x.shape[0]
    if num_rows > MAX_ROWS or x.element_size() != 2 or weight.stride(0) != 1:
        return linear_reference(x, weight, bias)
    return linear_few(x, weight, bias, ONE_ROW if num_rows == 1 else FEW_ROWS)


def linear_few(x: Tensor, weight: Tensor, bias: Tensor | None, tile: LinearTile) -> Tensor:
    """The same with a tile of one's own, for up to UNIT_ROWS rows of 16-bit numbers."""
    num_rows, num_inputs = x.shape
    num_outputs = weight.shape[1]
    assert num_rows <= UNIT_ROWS
    assert weight.shape[0] == num_inputs
    assert x.stride(1) == weight.stride(0) == 1
    output = torch.empty((num_rows, num_outputs), dtype=x.dtype, device=x.device)
    rows = (x,) if num_rows == 1 else (x, x.stride(0), num_rows)
    kernel = _one_row_kernel if num_rows == 1 else _few_rows_kernel
    kernel[(triton.cdiv(num_outputs, tile.num_outputs),)](
        *rows,
        weight,
        weight.stride(1),
        output if bias is None else bias,
        output,
        num_outputs,
        num_inputs,
        bias is not None,
        tile.num_outputs,
        min(tile.num_inputs, triton.next_power_of_2(num_inputs)),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
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
) -> None:
    """Products kept apart to the end, so that loads are wide and wait for nothing."""
    outs = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    exists = outs < num_outputs
    lines = weight + outs.to(tl.int64)[:, None] * weight_stride
    sums = tl.zeros((OUTPUTS, INPUTS), dtype=tl.float32)
    for first in range(0, num_inputs, INPUTS):
        ins = first + tl.arange(0, INPUTS)
        inside = ins < num_inputs
        values = tl.load(x + ins, mask=inside, other=0.0).to(tl.float32)
        weights = tl.load(lines + ins[None, :], mask=exists[:, None] & inside[None, :], other=0.0)
        sums += weights.to(tl.float32) * values[None, :]
    total = tl.sum(sums, 1)
    if has_bias:
        total += tl.load(bias + outs, mask=exists, other=0.0).to(tl.float32)
    tl.store(output + outs, total.to(output.dtype.element_ty), mask=exists)


@triton.jit(do_not_specialize=["num_rows"])
def _few_rows_kernel(
    x: tl.tensor,
    x_stride: int,
    num_rows: int,
    weight: tl.tensor,
    weight_stride: int,
    bias: tl.tensor,
    output: tl.tensor,
    num_outputs: tl.constexpr,
    num_inputs: tl.constexpr,
    has_bias: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
) -> None:
    outs = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    rows = tl.arange(0, 16)
    exists, is_row = outs < num_outputs, rows < num_rows
    lines = weight + outs.to(tl.int64)[:, None] * weight_stride
    total = tl.zeros((OUTPUTS, 16), dtype=tl.float32)
    for first in range(0, num_inputs, INPUTS):
        ins = first + tl.arange(0, INPUTS)
        inside = ins < num_inputs
        values = tl.load(
            x + rows[None, :] * x_stride + ins[:, None],
            mask=is_row[None, :] & inside[:, None],
            other=0.0,
        )
        weights = tl.load(lines + ins[None, :], mask=exists[:, None] & inside[None, :], other=0.0)
        total = tl.dot(weights, values, total)
    if has_bias:
        total += tl.load(bias + outs, mask=exists, other=0.0).to(tl.float32)[:, None]
    places = rows[None, :] * num_outputs + outs[:, None]
    mask = exists[:, None] & is_row[None, :]
    tl.store(output + places, total.to(output.dtype.element_ty), mask=mask)
