"""Arithmetic that rounds as torch does: an operation on 16-bit numbers is done in float32.

Each result is rounded to the operands' dtype before it is used again, so that the kernels agree
with their torch references bit for bit, compiled and in Triton's interpreter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker_svc.kernels.kernel import kernel

if TYPE_CHECKING:
    import triton.language as tl


@kernel
def widened(x: tl.tensor) -> tl.tensor:
    """x in float32 at least."""
    if x.dtype.primitive_bitwidth < 32:
        x = x.to(tl.float32)
    return x


@kernel
def rounded_product(x: tl.tensor, y: tl.tensor) -> tl.tensor:
    """x * y in x's dtype."""
    return (widened(x) * widened(y)).to(x.dtype)


@kernel
def rounded_sum(x: tl.tensor, y: tl.tensor) -> tl.tensor:
    """x + y in x's dtype."""
    return (widened(x) + widened(y)).to(x.dtype)


@kernel
def rounded_difference(x: tl.tensor, y: tl.tensor) -> tl.tensor:
    """x - y in x's dtype."""
    return (widened(x) - widened(y)).to(x.dtype)
