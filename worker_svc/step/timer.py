"""How long the device was busy with a step, and whether it still is."""

from __future__ import annotations

import time
from typing import Any, Protocol

import torch

_cuda: Any = torch.cuda  # some of it has no types


class Timer(Protocol):
    """Started before a step's first launch, stopped after its last."""

    def stop(self) -> None:
        """Nothing more is launched."""

    def is_done(self) -> bool:
        """Whether everything launched has been computed; does not wait."""

    def wait(self) -> int:
        """Wait until it has; return how long it took in microseconds."""


class DeviceTimer:
    """Events in a CUDA device's stream."""

    def __init__(self) -> None:
        self._begin, self._end = (_cuda.Event(enable_timing=True) for _ in range(2))
        self._begin.record()

    def stop(self) -> None:
        self._end.record()

    def is_done(self) -> bool:
        return bool(self._end.query())

    def wait(self) -> int:
        self._end.synchronize()
        return int(self._begin.elapsed_time(self._end) * 1000)


class HostTimer:
    """A device that computes as it is told to."""

    def __init__(self) -> None:
        self._begin_ns = time.perf_counter_ns()
        self._duration_us = 0

    def stop(self) -> None:
        self._duration_us = (time.perf_counter_ns() - self._begin_ns) // 1000

    def is_done(self) -> bool:
        return True

    def wait(self) -> int:
        return self._duration_us


def start_timer(device: torch.device) -> Timer:
    """A running timer of ``device``."""
    return DeviceTimer() if device.type == "cuda" else HostTimer()
