"""``categorical`` in Triton."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from worker_svc.kernels.rounding_triton import widened

BLOCK_SIZE = 1024


def categorical_triton(logits: Tensor, uniforms: Tensor) -> Tensor:
    """``categorical_reference`` for logits whose last stride is 1."""
    num_rows, vocab_size = logits.shape
    assert uniforms.shape == (num_rows,)
    assert logits.stride(1) == uniforms.stride(0) == 1
    ids = torch.empty((num_rows,), dtype=torch.int64, device=logits.device)
    _categorical_kernel[(num_rows,)](
        logits,
        logits.stride(0),
        vocab_size,
        uniforms,
        ids,
        BLOCK_SIZE,
        num_warps=4,
        enable_fp_fusion=False,
    )
    return ids


@triton.jit
def _categorical_kernel(
    logits: tl.tensor,
    logits_stride: int,
    vocab_size: int,
    uniforms: tl.tensor,
    ids: tl.tensor,
    num_tokens: tl.constexpr,
) -> None:
    """One program a row: find the largest logit, sum the weights, find the token."""
    row = tl.program_id(0).to(tl.int64)
    line = logits + row * logits_stride
    top = tl.full((), float("-inf"), widened(tl.load(line)).dtype)
    for start in range(0, vocab_size, num_tokens):
        top = tl.maximum(top, tl.max(_block(line, start, vocab_size, num_tokens), 0))
    total = tl.full((), 0.0, tl.float64)
    for start in range(0, vocab_size, num_tokens):
        weights = tl.exp(_block(line, start, vocab_size, num_tokens) - top).to(tl.float64)
        total += tl.sum(weights, 0)
    target = tl.load(uniforms + row).to(tl.float64) * total
    before = tl.full((), 0.0, tl.float64)
    drawn = tl.full((), vocab_size, tl.int32)
    last = tl.full((), 0, tl.int32)
    for start in range(0, vocab_size, num_tokens):
        at = start + tl.arange(0, num_tokens)
        weights = tl.exp(_block(line, start, vocab_size, num_tokens) - top).to(tl.float64)
        possible = weights > 0
        passed = possible & (before + tl.cumsum(weights, 0) > target)
        drawn = tl.minimum(drawn, tl.min(tl.where(passed, at, vocab_size), 0))
        last = tl.maximum(last, tl.max(tl.where(possible, at, 0), 0))
        before += tl.sum(weights, 0)
    # Rounding may leave no token past the target: then it is the last possible one.
    tl.store(ids + row, tl.where(drawn < vocab_size, drawn, last).to(tl.int64))


@triton.jit
def _block(
    line: tl.tensor, start: tl.tensor, vocab_size: tl.tensor, num_tokens: tl.constexpr
) -> tl.tensor:
    at = start + tl.arange(0, num_tokens)
    return widened(tl.load(line + at, mask=at < vocab_size, other=float("-inf")))
