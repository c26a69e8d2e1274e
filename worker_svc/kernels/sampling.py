"""One draw per row from truncated logits: the inverse of the cumulative distribution.

Tokens are passed in vocabulary order and the drawn one is the first at which the cumulative
probability exceeds the row's uniform number: a pure function of (logits, uniform), the same in
any batch. Sums are in float64, so that a long tail of small probabilities is not lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from worker_svc.kernels.kernel import kernel
from worker_svc.kernels.rounding import widened

if TYPE_CHECKING:
    import triton.language as tl

BLOCK_SIZE = 1024


def categorical_reference(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Draw one id per row.

    Args:
        logits: ``[S, V]`` floating; a token that must not be drawn is ``-inf``; every row has a
            finite one.
        uniforms: ``[S]`` float32 or float64 in ``[0, 1)``.

    Returns:
        ``[S]`` int64 ids, each with a probability above zero.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    weights = (wide - wide.max(-1, keepdim=True).values).exp().to(torch.float64)
    cumulative = weights.cumsum(-1)
    targets = uniforms.to(torch.float64)[:, None] * cumulative[:, -1:]
    possible = weights > 0
    passed = (cumulative > targets) & possible
    # Rounding may leave no token past the target: then it is the last possible one.
    places = torch.arange(logits.shape[1], device=logits.device)
    last = torch.where(possible, places, 0).amax(-1)
    return torch.where(passed.any(-1), passed.to(torch.uint8).argmax(-1), last)


def categorical_triton(logits: Tensor, uniforms: Tensor) -> Tensor:
    """``categorical_reference`` for logits whose last stride is 1."""
    num_rows, vocab_size = logits.shape
    assert uniforms.shape == (num_rows,)
    assert logits.stride(1) == uniforms.stride(0) == 1
    ids = torch.empty((num_rows,), dtype=torch.int64, device=logits.device)
    _categorical_kernel[(num_rows,)](
        *(logits, logits.stride(0), vocab_size, uniforms, ids), num_warps=4, enable_fp_fusion=False
    )
    return ids


@kernel
def _categorical_kernel(
    logits: tl.tensor, logits_stride: int, vocab_size: int, uniforms: tl.tensor, ids: tl.tensor
) -> None:
    """One program a row: find the largest logit, sum the weights, find the token."""
    row = tl.program_id(0).to(tl.int64)
    line = logits + row * logits_stride
    top = tl.full((), float("-inf"), widened(tl.load(line)).dtype)
    for start in range(0, vocab_size, BLOCK_SIZE):
        top = tl.maximum(top, tl.max(_block(line, start, vocab_size), 0))
    total = tl.full((), 0.0, tl.float64)
    for start in range(0, vocab_size, BLOCK_SIZE):
        weights = tl.exp(_block(line, start, vocab_size) - top).to(tl.float64)
        total += tl.sum(weights, 0)
    target = tl.load(uniforms + row).to(tl.float64) * total
    before = tl.full((), 0.0, tl.float64)
    drawn = tl.full((), vocab_size, tl.int32)
    last = tl.full((), 0, tl.int32)
    for start in range(0, vocab_size, BLOCK_SIZE):
        at = start + tl.arange(0, BLOCK_SIZE)
        weights = tl.exp(_block(line, start, vocab_size) - top).to(tl.float64)
        possible = weights > 0
        passed = possible & (before + tl.cumsum(weights, 0) > target)
        drawn = tl.minimum(drawn, tl.min(tl.where(passed, at, vocab_size), 0))
        last = tl.maximum(last, tl.max(tl.where(possible, at, 0), 0))
        before += tl.sum(weights, 0)
    # Rounding may leave no token past the target: then it is the last possible one.
    tl.store(ids + row, tl.where(drawn < vocab_size, drawn, last).to(tl.int64))


@kernel
def _block(line: tl.tensor, start: tl.tensor, vocab_size: tl.tensor) -> tl.tensor:
    at = start + tl.arange(0, BLOCK_SIZE)
    return widened(tl.load(line + at, mask=at < vocab_size, other=float("-inf")))
