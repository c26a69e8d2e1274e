"""Arithmetic that rounds as torch does: an operation on 16-bit numbers is done in float32.

Each result is rounded to the operands' dtype before it is used again, so that the kernels agree
with their torch references bit for bit, compiled and in Triton's interpreter.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def widened(x: tl.tensor) -> tl.tensor:
    """x in float32 at least."""
    if x.dtype.primitive_bitwidth < 32:
        x = x.to(tl.float32)
    return x


@triton.jit
def rounded_product(x: tl.tensor, y: tl.tensor) -> tl.tensor:
    """x * y in x's dtype."""
    return (widened(x) * widened(y)).to(x.dtype)


@triton.jit
def rounded_sum(x: tl.tensor, y: tl.tensor) -> tl.tensor:
    """x + y in x's dtype."""
    return (widened(x) + widened(y)).to(x.dtype)


@triton.jit
def rounded_difference(x: tl.tensor, y: tl.tensor) -> tl.tensor:
    """x - y in x's dtype."""
    return (widened(x) - widened(y)).to(x.dtype)
