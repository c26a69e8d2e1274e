"""Serve models with ``stepserve up`` for the time of a ``with`` block."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stepserve.local.ready import ready_fields
from stepserve.local.spawn import spawn, stop
from stepserve.process.command_line import flag
from stepserve.process.extras import require_local
from stepserve.protocol.errors import StepserveError

STOP_TIMEOUT_S = 30.0


class ServeFailed(StepserveError):
    """The service ended before it was ready."""


@dataclass(frozen=True, slots=True)
class Served:
    """A running service: where it listens, its models' names, and its process."""

    target: str
    model: str
    process: subprocess.Popen[str]


@contextmanager
def serve(*models: Path | str, redis_url: str = "", **flags: object) -> Iterator[Served]:
    """Run ``stepserve up`` on any free port with these flags; stop it at the end.

    Raises ServeFailed where it ends before it is ready, its message is on stderr; NotInstalled
    where it could not start.
    ``redis_url`` is no flag: it may hold a password, and command lines can be read by others.
    """
    require_local("serving a model on this machine")
    options = [flag(name, value) for name, value in {"progress": False, **flags}.items()]
    environment = {"STEPSERVE_REDIS_URL": redis_url} if redis_url else {}
    named = [flag("model", model) for model in models]
    command = ["stepserve.cli", "up", *named, "--port=0", *options]
    process = spawn(command, environment)
    try:
        yield _wait_ready(process)
    finally:
        stop(process, STOP_TIMEOUT_S)
        if process.stdout is not None:
            process.stdout.close()


def _wait_ready(process: subprocess.Popen[str]) -> Served:
    assert process.stdout is not None
    for line in process.stdout:
        if fields := ready_fields(line):
            return Served(fields["grpc"], fields["model"], process)
    raise ServeFailed(f"stepserve up ended with status {process.wait()} before it was ready")
