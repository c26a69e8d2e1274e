"""Services as processes of a measurement, and what CPU time each of them takes."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import psutil

from stepserve.local.ready import ready_fields
from stepserve.protocol.errors import StepserveError

STOP_TIMEOUT_S = 15.0


@contextmanager
def started(
    command: Sequence[str], environment: Mapping[str, str]
) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """Yield the process, and what its line ``ready`` says; end it with the block.

    Raises StepserveError where it ends before it is ready.
    """
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    try:
        assert process.stdout is not None
        ready = next(filter(None, map(ready_fields, process.stdout)), None)
        if ready is None:
            raise StepserveError(f"{' '.join(command)} ended with status {process.wait()}")
        yield process, ready
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(STOP_TIMEOUT_S)


def cpu_s(processes: Mapping[str, int]) -> dict[str, float]:
    """Return the CPU time, in seconds, that each process has taken so far, by its name."""
    times = {name: psutil.Process(pid).cpu_times() for name, pid in processes.items()}
    return {name: spent.user + spent.system for name, spent in times.items()}
