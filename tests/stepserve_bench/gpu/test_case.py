"""A kernel beside its reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from stepserve_bench.gpu.case import Case, Outputs
from worker_svc.kernels import select


@pytest.mark.parametrize(
    ("shifts", "fault"),
    [
        ((0.0, 0.0), ""),
        ((0.5, 0.5), "error 5.00e-01, 1e-03 is allowed"),
        ((float("nan"), 0.0), "error inf, 1e-03 is allowed"),
        ((0.0, 1e-4), "other bits the second time"),
    ],
)
def test_a_wrong_kernel_is_a_fault(shifts: tuple[float, float], fault: str) -> None:
    coming = iter(shifts)

    def compute(*_: Any) -> Outputs:
        wanted = torch.ones(4)
        return [wanted + next(coming)], [wanted]

    kernels = select("torch", "cpu")
    case = Case("silu_mul", "four", 1e-3, compute)
    assert case.finding(kernels, kernels, torch.device("cpu")).fault == fault
