"""``silu_mul`` in Triton."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from worker_svc.kernels.early_triton import starts_early, wait_for_others
from worker_svc.kernels.rounding_triton import rounded_product, widened

BLOCK_SIZE = 1024


def silu_mul_triton(gate_up: Tensor) -> Tensor:
    """``silu_mul_reference`` for ``[T, 2 I]`` whose last stride is 1."""
    assert gate_up.dim() == 2
    assert gate_up.stride(1) == 1
    num_tokens, width = gate_up.shape[0], gate_up.shape[1] // 2
    output = torch.empty((num_tokens, width), dtype=gate_up.dtype, device=gate_up.device)
    _silu_mul_kernel[(num_tokens, -(-width // BLOCK_SIZE))](
        gate_up,
        gate_up.stride(0),
        output,
        width,
        BLOCK_SIZE,
        starts_early(gate_up),
        launch_pdl=starts_early(gate_up),
        num_warps=4,
        enable_fp_fusion=False,
    )
    return output


@triton.jit
def _silu_mul_kernel(
    gate_up: tl.tensor,
    gate_up_stride: int,
    output: tl.tensor,
    width: int,
    num_outputs: tl.constexpr,
    early: tl.constexpr,
) -> None:
    """One program ``num_outputs`` of one token's outputs."""
    wait_for_others(early)
    token = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * num_outputs + tl.arange(0, num_outputs)
    inside = at < width
    line = gate_up + token * gate_up_stride
    gate = tl.load(line + at, mask=inside, other=0.0)
    up = tl.load(line + width + at, mask=inside, other=0.0)
    wide = widened(gate)
    silu = (wide / (1 + tl.exp(-wide))).to(gate.dtype)
    tl.store(output + token * width + at, rounded_product(silu, up), mask=inside)
