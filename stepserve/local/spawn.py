"""A module of ours as a child process: its lines are read, and it ends when we do."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence

from stepserve.process.tether import PIPED, tethered


def spawn(
    arguments: Sequence[str], environment: Mapping[str, str], *, is_own_session: bool = False
) -> subprocess.Popen[str]:
    """Start a module with its arguments, its standard output a pipe to us.

    It has the variables of ``environment`` beside ours.
    In a session of its own a Ctrl-C in the terminal does not reach it.
    """
    return subprocess.Popen(
        tethered(*arguments),
        stdout=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        start_new_session=is_own_session,
        env={**os.environ, **environment, **PIPED},
    )


def stop(process: subprocess.Popen[str], timeout_s: float) -> None:
    """End a process by SIGTERM; by SIGKILL where it has not ended in time."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
