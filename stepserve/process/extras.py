"""What is not installed because its extra was not asked for: one line says how to get it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from stepserve.protocol.errors import StepserveError

_OURS = ("kvstore", "scheduler_svc", "worker_svc", "stepserve", "stepserve_bench")
# What each extra brings, that which people know first.
_OF_EXTRA = {
    "local": ("torch", "transformers", "redis", "grpc_health"),
    "scheduler": ("transformers", "redis", "grpc_health"),
    "worker": ("torch", "transformers", "grpc_health"),
    "bench": ("torch", "scipy", "matplotlib"),
}


class NotInstalled(StepserveError):
    """A library is missing that one of our extras brings."""

    def __init__(self, needed_by: str, library: str, extra: str) -> None:
        super().__init__(f"{needed_by} needs {library}: pip install 'stepserve[{extra}]'")


@contextmanager
def needs_extra(extra: str, needed_by: str) -> Iterator[None]:
    """Run a block whose imports are those of ``extra``; "" where it needs none.

    Raises NotInstalled instead of ModuleNotFoundError, but for modules of our own.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if not extra or not library or library in _OURS:
            raise
        known = (name for name in _OF_EXTRA[extra] if find_spec(name) is None)
        raise NotInstalled(needed_by, next(known, library), extra) from error


def require(extra: str, needed_by: str, *libraries: str) -> None:
    """Raise NotInstalled where one of the libraries is not there; imports none."""
    for library in libraries:
        if find_spec(library) is None:
            raise NotInstalled(needed_by, library, extra)


def require_local(needed_by: str) -> None:
    """Raise NotInstalled where a scheduler or a worker could not start on this machine."""
    require("local", needed_by, *_OF_EXTRA["local"])
