"""``stepserve`` whose workers jobs can crash: ``python -m tests.fault.poisoned_up up FLAGS``."""

from __future__ import annotations

import sys
from dataclasses import replace

from stepserve import cli
from stepserve.commands.up import Shared, Up
from stepserve.local.processes import Service

_worker = Up._worker


def poisoned(up: Up, number: int, shared: Shared) -> Service:
    """A worker as ``up`` starts it, of the other module."""
    service = _worker(up, number, shared)
    return replace(service, arguments=["tests.fault.poison", *service.arguments[1:]])


def main() -> int:
    Up._worker = poisoned  # type: ignore[method-assign]
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
