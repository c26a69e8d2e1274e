"""What only some of the command's flags need installed."""

from __future__ import annotations

from stepserve.process import extras


def require(module: str, flag: str) -> None:
    """Raise StepserveError, which says how to install it, where ``module`` is not there."""
    extras.require("bench", flag, module)
