"""One comparison of a kernel with its reference, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker_svc.kernels import Kernels

# What a kernel gave, and what it should have given.
Outputs = tuple[Sequence[Tensor], Sequence[Tensor]]
Compute = Callable[[Kernels, Kernels, torch.device], Outputs]

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
# Relative errors, by the norm of all outputs: some rounding steps of each dtype.
TOLERANCES = {torch.float32: 1e-5, torch.float16: 3e-3, torch.bfloat16: 2e-2}


@dataclass(frozen=True, slots=True)
class Finding:
    """What a case showed: ``error`` beside what is ``allowed``; ``fault`` where it is too much."""

    kernel: str
    label: str
    error: float = 0.0
    allowed: float = 1.0
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """``compute`` gives what the tested kernels and the references make of the same inputs.

    It is called twice: a kernel must give the same bits each time. ``allowed`` is the relative
    error, in the norm of each output; 0 asks for the same bits as the reference's.
    """

    kernel: str
    label: str
    allowed: float
    compute: Compute

    def finding(self, tested: Kernels, reference: Kernels, device: torch.device) -> Finding:
        """Compare on ``device``."""
        got, wanted = self.compute(tested, reference, device)
        again, _ = self.compute(tested, reference, device)
        error = max(relative_error(ours, theirs) for ours, theirs in zip(got, wanted, strict=True))
        fault = ""
        if not error <= self.allowed:
            fault = f"error {error:.2e}, {self.allowed:.0e} is allowed"
        elif not all(map(same_bits, got, again)):
            fault = "other bits the second time"
        return Finding(self.kernel, self.label, error, max(self.allowed, 1e-30), fault)


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """The norm of the difference over that of what should be; infinite for a NaN or a shape."""
    if ours.shape != theirs.shape:
        return float("inf")
    wide, wanted = ours.double(), theirs.double()
    if not bool(torch.isfinite(wide).all()):
        return float("inf")
    difference = float((wide - wanted).norm())
    scale = float(wanted.norm())
    return difference / scale if scale else difference


def same_bits(ours: Tensor, theirs: Tensor) -> bool:
    """Whether two tensors are equal, NaNs at the same positions too."""
    return bool(torch.equal(torch.nan_to_num(ours), torch.nan_to_num(theirs)))
