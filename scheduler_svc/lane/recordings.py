"""What is written down of one hold of a worker, as the settings have it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from scheduler_svc.core.config import CoreConfig
from scheduler_svc.lane.recorder import StepRecorder
from scheduler_svc.lane.turns import TurnObserver
from scheduler_svc.queue import Lease
from scheduler_svc.record_files import record_name
from scheduler_svc.settings import LaneSettings
from scheduler_svc.trace.recorder import trace_recorder


@contextmanager
def recordings(
    settings: LaneSettings, lease: Lease, config: CoreConfig
) -> Iterator[Sequence[TurnObserver]]:
    """Open the recordings that are wanted for the time of the block; maybe none."""
    name = record_name(lease.worker_id, lease.epoch)
    observers: list[TurnObserver] = []
    with ExitStack() as stack:
        trace = stack.enter_context(trace_recorder(settings.record_events_dir, name, config))
        if trace is not None:
            observers.append(trace)
        if settings.record_dir:
            recorder = StepRecorder(Path(settings.record_dir), name)
            observers.append(stack.enter_context(recorder))
        yield observers
