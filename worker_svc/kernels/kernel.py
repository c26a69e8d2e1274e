"""A Triton kernel that waits for its first launch to import Triton.

The files of the kernels import on a machine without Triton, and a process that computes with other
kernels does not load it. ``TRITON_INTERPRET`` counts if it is set before the first launch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from types import FunctionType
from typing import Any


class Kernel:
    """A function in Triton's language, compiled at launch: ``kernel[grid](*arguments)``.

    Arguments travel in named tuples, those known at compile time in one ``tl.constexpr``. Kernels
    may call each other; plain numbers of their module become compile-time constants.
    """

    def __init__(self, function: Callable[..., Any], varying: tuple[str, ...] = ()) -> None:
        assert isinstance(function, FunctionType)
        self._function = function
        self._varying = varying

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., Any]:
        launch: Callable[..., Any] = self.jit[grid]
        return launch

    @cached_property
    def jit(self) -> Any:
        """Triton's own object for the kernel.

        Raises:
            ImportError: Triton is not installed.
        """
        import triton
        import triton.language

        function = self._function
        scope = {**function.__globals__, "tl": triton.language}
        for name in function.__code__.co_names:
            value = scope.get(name)
            if isinstance(value, Kernel):
                scope[name] = value.jit
            elif isinstance(value, int | float):
                scope[name] = triton.language.constexpr(value)
        copy = FunctionType(function.__code__, scope, function.__name__)
        copy.__annotations__ = function.__annotations__
        copy.__qualname__ = function.__qualname__
        return triton.jit(copy, do_not_specialize=self._varying)


def kernel(function: Callable[..., Any]) -> Any:
    """Make a function in Triton's language a ``Kernel``. In it ``tl`` is ``triton.language``."""
    return Kernel(function)


def varying(*names: str) -> Callable[[Callable[..., Any]], Any]:
    """``kernel`` where the integers ``names`` change from step to step: compiled once for all.

    Without it Triton compiles anew for an integer that is 1, and for one that 16 divides.
    """
    return lambda function: Kernel(function, names)


def power_of_two(number: int) -> int:
    """The smallest power of two that is at least ``number``."""
    return 1 << max(number - 1, 0).bit_length()
