"""What a service says of itself, on standard error."""

from __future__ import annotations

import logging
import os
import sys

from stepserve.protocol.errors import StepserveError

VARIABLE = "STEPSERVE_LOG_LEVEL"


def start_logging() -> None:
    """Log from STEPSERVE_LOG_LEVEL on; where it is not set or empty, from INFO on.

    Raises StepserveError where it names no level.
    """
    level = os.environ.get(VARIABLE, "").upper() or "INFO"
    levels = logging.getLevelNamesMapping()
    if level not in levels:
        raise StepserveError(f"{VARIABLE} is {level!r}, not one of {', '.join(sorted(levels))}")
    logging.basicConfig(
        level=level,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
