"""Which stepserve this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

UNINSTALLED = "0+uninstalled"


def own_version() -> str:
    """Return the installed package's version; UNINSTALLED where the sources run as they lie."""
    try:
        return version("stepserve")
    except PackageNotFoundError:
        return UNINSTALLED
