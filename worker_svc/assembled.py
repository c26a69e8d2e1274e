"""What a worker serves with, once it is put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from stepserve.protocol.step import WorkerInfo
from worker_svc.core.step_runner import StepRunner


@dataclass(frozen=True, slots=True)
class Assembly:
    """A runner that has warmed up, what it tells of itself, and how far ahead it launches.

    ``lost`` is told at once of a failure, or of a step that hangs, where others depend on it; then
    it does not return.
    """

    runner: StepRunner
    info: WorkerInfo
    launch_ahead: int = 0
    lost: Callable[[str], object] = str
