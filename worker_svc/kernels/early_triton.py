"""Kernels that are set up while the one before them still runs.

A kernel of a decode step takes a few microseconds, and about one passes between two of them. From
Hopper on the next one may be brought onto the device meanwhile ("programmatic dependent launch" in
the CUDA programming guide); it waits there until everything before it has been written.
"""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


def starts_early(tensor: Tensor) -> bool:
    """Whether kernels on this tensor's device can, for ``launch_pdl`` and ``early``."""
    return _can(tensor.device)


@cache
def _can(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


@triton.jit
def wait_for_others(early: tl.constexpr) -> None:
    """What the kernels before wrote may be read from here on; the next one may come."""
    if early:
        gdc_wait()
        gdc_launch_dependents()
