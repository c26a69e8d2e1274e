"""``categorical`` for CPUs, compiled by Numba: one pass over the weights of a row."""

from __future__ import annotations

from functools import partial
from typing import Any

import numba
import numpy as np
import torch
from numba import prange
from torch import Tensor

from worker_svc.kernels.choose import choose_reference
from worker_svc.kernels.compiled import Array, available_threads, compiled, exp
from worker_svc.kernels.sampling import categorical_reference
from worker_svc.kernels.vocabulary import WholeVocabulary

# Weights are summed by blocks, so that only one of them is passed a second time.
BLOCK_SIZE = 1024
# Less than this is zero: e**-87 is about the smallest normal float32.
MIN_EXPONENT = -87.0


def categorical_cpu(logits: Tensor, uniforms: Tensor) -> Tensor:
    """``categorical_reference`` for float32 and float64; 16 bits take the reference itself."""
    if logits.dtype not in (torch.float32, torch.float64):
        return categorical_reference(logits, uniforms)
    ids = torch.empty(len(logits), dtype=torch.int64)
    tensors = (logits.contiguous(), logits.amax(-1), uniforms.to(torch.float64), ids)
    arrays = [tensor.numpy() for tensor in tensors]
    num_threads = available_threads()
    if num_threads == 1:
        _draw_serially(*arrays)
    else:
        numba.set_num_threads(num_threads)
        _draw_in_parallel(*arrays)
    return ids


@compiled()
def _draw_serially(logits: Array, tops: Array, uniforms: Array, ids: Array) -> None:
    for row in range(logits.shape[0]):
        ids[row] = _draw(logits[row], tops[row], uniforms[row])


@compiled(parallel=True)
def _draw_in_parallel(logits: Array, tops: Array, uniforms: Array, ids: Array) -> None:
    for row in prange(logits.shape[0]):
        ids[row] = _draw(logits[row], tops[row], uniforms[row])


@compiled()
def _draw(line: Array, top: Any, uniform: float) -> int:
    sums = np.zeros(-(-line.shape[0] // BLOCK_SIZE))
    for block in range(sums.shape[0]):
        begin, mass = block * BLOCK_SIZE, 0.0
        for i in range(begin, min(begin + BLOCK_SIZE, line.shape[0])):
            mass += _weight(line[i], top)
        sums[block] = mass
    target = uniform * sums.sum()
    before, last = 0.0, 0
    for block in range(sums.shape[0]):
        # A sum in another order: where it may be this block, its tokens decide.
        if before + sums[block] * (1 + 1e-12) > target:
            begin, mass = block * BLOCK_SIZE, before
            for i in range(begin, min(begin + BLOCK_SIZE, line.shape[0])):
                weight = _weight(line[i], top)
                mass += weight
                if weight > 0 and mass > target:
                    return i
        before += sums[block]
    # Rounding may leave no token past the target: then it is the last possible one.
    for i in range(line.shape[0]):
        if _weight(line[i], top) > 0:
            last = i
    return last


@compiled()
def _weight(score: Any, top: Any) -> float:
    exponent = score - top
    weight = exp(exponent)
    return np.float64(weight if exponent > MIN_EXPONENT else 0.0)


vocabulary_cpu = WholeVocabulary(categorical_cpu)
choose_cpu = partial(choose_reference, vocabulary=vocabulary_cpu)
