"""What a worker refuses before it serves."""

from __future__ import annotations

from stepserve.protocol.errors import StepserveError


class WorkerUnavailable(StepserveError):
    """These settings can't be served on this machine; the message says what to change."""
