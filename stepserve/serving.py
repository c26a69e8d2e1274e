"""Serve a model with ``stepserve up`` for the time of a ``with`` block."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from protos.errors import StepserveError
from stepserve.tether import tethered

STOP_TIMEOUT_S = 30.0


class ServeFailed(StepserveError):
    """The service ended before it was ready."""


@dataclass(frozen=True, slots=True)
class Served:
    """A running service: where it listens, its model's name, and its process."""

    target: str
    model: str
    process: subprocess.Popen[str]


@contextmanager
def serve(model: Path | str, **flags: object) -> Iterator[Served]:
    """Run ``stepserve up`` on any free port with these flags; stop it at the end.

    Raises ServeFailed where it ends before it is ready; its message is on stderr.
    """
    options = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
    process = subprocess.Popen(
        tethered("stepserve.cli", "up", f"--model={model}", "--port=0", *options),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield _wait_ready(process)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _wait_ready(process: subprocess.Popen[str]) -> Served:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("ready "):
            fields = dict(pair.split("=", 1) for pair in line.split()[1:])
            return Served(fields["grpc"], fields["model"], process)
    raise ServeFailed(f"stepserve up ended with status {process.wait()} before it was ready")
