"""What every section of a run is given: where to compute, with what, how much, how long."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stepserve_bench.gpu.floors import UNKNOWN, Ceilings
from stepserve_bench.gpu.geometry import QWEN3_06B, QWEN3_8B, TINY, Geometry
from worker_svc.kernels import Kernels, select

# One result: plain numbers, texts and lists, with ``what`` was measured. A ``fault`` is a result
# that is wrong, an ``error`` one that could not be had.
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Setup:
    """One run's choices.

    Attributes:
        device_name: "cuda" or "cpu"; nothing of a GPU is touched before a section runs.
        kernels_name: as ``--kernels``.
        is_quick: fewer cases and shorter runs, to see that all of it works.
        up: more flags for ``stepserve up``, as on a command line.
        scratch: a directory in memory, if there is one, for checkpoints.
        ceilings: what the card reaches, measured first in the run.
        deadline_s: by the monotonic clock, when the section has to be done.
    """

    device_name: str
    kernels_name: str
    is_quick: bool
    up: tuple[str, ...]
    scratch: Path
    ceilings: Ceilings = UNKNOWN
    deadline_s: float = float("inf")

    @property
    def device(self) -> torch.device:
        return torch.device(self.device_name)

    @property
    def is_gpu(self) -> bool:
        return self.device_name == "cuda"

    @property
    def is_small(self) -> bool:
        """Whether only small shapes are worth computing: nobody waits for 8B on a CPU."""
        return not self.is_gpu

    @property
    def left_s(self) -> float:
        """Seconds that the section has left; below zero, it should end."""
        return self.deadline_s - time.monotonic()

    @property
    def dtype(self) -> torch.dtype:
        """What the timed models compute in."""
        return torch.bfloat16 if self.is_gpu else torch.float32

    @property
    def geometries(self) -> tuple[Geometry, ...]:
        """The models that are measured, the smaller first."""
        return (TINY,) if self.is_small else (QWEN3_06B, QWEN3_8B)

    def kernels(self) -> Kernels:
        """The kernels to measure. Raises KernelsUnavailable."""
        return select(self.kernels_name, self.device)


Section = Callable[[Setup], Iterator[Row]]
