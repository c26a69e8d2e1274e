"""What only some of the command's flags need installed."""

from __future__ import annotations

from importlib.util import find_spec

from stepserve.protocol.errors import StepserveError


def require(module: str, flag: str) -> None:
    """Raise StepserveError, which says how to install it, where ``module`` is not there."""
    if find_spec(module) is None:
        raise StepserveError(f"{flag} needs {module}: pip install 'stepserve[bench]'")
