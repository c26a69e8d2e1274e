"""Directories that services write into, looked at before anything is started."""

from __future__ import annotations

import os
from pathlib import Path

from stepserve.protocol.errors import StepserveError


def check_directory(path: Path, what: str, mode: int = 0o777) -> None:
    """Make a directory if it is not there. Raises StepserveError where it can't be written into.

    ``what`` is how it was asked for: --record-dir. ``mode`` is that of one that is made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=mode)
    except FileExistsError:
        raise StepserveError(f"{what}: {path} is a file, not a directory") from None
    except OSError as error:
        raise StepserveError(f"{what}: {path} can't be made: {error.strerror}") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise StepserveError(f"{what}: {path} can't be written into by this user")
