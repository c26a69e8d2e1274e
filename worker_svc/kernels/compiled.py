"""What the kernels that Numba compiles for CPUs have in common.

Numba is imported with this module, so only the selection of the CPU kernels imports it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
import torch
from numba.core import types
from numba.extending import overload
from numpy.typing import NDArray

# Sums may be reordered and fused, so that they vectorise. Infinities and NaNs keep their meaning.
FAST_MATH = {"reassoc", "contract", "nsz", "arcp"}

Array = NDArray[Any]
Function = TypeVar("Function", bound=Callable[..., Any])


def available_threads() -> int:
    """As many as torch uses, where Numba has so many."""
    return min(torch.get_num_threads(), int(numba.config.NUMBA_NUM_THREADS))


def compiled(**options: Any) -> Callable[[Function], Function]:
    """A decorator: compile when first called, and keep the code for later processes."""

    def decorate(function: Function) -> Function:
        options.setdefault("fastmath", FAST_MATH)
        options["nogil"] = True
        try:
            return numba.njit(cache=True, **options)(function)  # type: ignore[no-any-return]
        except RuntimeError:  # no directory for a cache can be written: compile in each process
            return numba.njit(**options)(function)  # type: ignore[no-any-return]

    return decorate


def exp(x: Any) -> Any:
    """e**x for x <= 0; compiled code only."""
    raise NotImplementedError


@overload(exp)  # type: ignore[untyped-decorator]
def _exp_overload(x: Any) -> Callable[[Any], Any]:
    return _exp_float32 if x == types.float32 else _exp_float64


def _exp_float64(x: Any) -> Any:
    return math.exp(x)


def _exp_float32(x: Any) -> Any:
    """Range reduction and polynomial of Cephes' expf: it vectorises, ten times libm's speed."""
    x = np.float32(-87) if x < np.float32(-87) else x  # in this order a NaN stays one
    power = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
    r = x - power * np.float32(0.693359375) + power * np.float32(2.12194440e-4)
    y = np.float32(1.9875691500e-4)
    y = y * r + np.float32(1.3981999507e-3)
    y = y * r + np.float32(8.3334519073e-3)
    y = y * r + np.float32(4.1665795894e-2)
    y = y * r + np.float32(1.6666665459e-1)
    y = y * r + np.float32(5.0000001201e-1)
    y = y * r * r + r + np.float32(1)
    exponent = np.int32((np.int32(power) + np.int32(127)) << np.int32(23))
    return y * exponent.view(np.float32)
