"""``python -m worker_svc``: one worker, until SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from uuid import uuid4

from stepserve.process.command_line import parse_settings, print_any_character
from stepserve.process.extras import needs_extra
from stepserve.process.logs import start_logging
from stepserve.protocol.errors import StepserveError
from worker_svc.group.launcher import run_ranks
from worker_svc.group.place import is_group, machine_of
from worker_svc.machine.address import check_address
from worker_svc.settings import WorkerSettings

log = logging.getLogger("worker_svc")

PROG = "stepserve worker"
# A step failed: the device or the program is broken, another process may do better.
EXIT_BROKEN = 3


def run(settings: WorkerSettings) -> int:
    """Serve until SIGTERM or SIGINT. Return 1 where nothing can be served; stderr says why.

    A SIGTERM ends it at once while it loads: as a container's first process it would be ignored.

    Once it has served, it ends the process: with status 0 after a signal, with EXIT_BROKEN
    after a failed step. To unload torch takes seconds and gives nothing back, and a broken
    device or a step that hangs may never let go.
    """
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    # Idle threads that spin cost a small machine more than any kernel can win. Read when
    # torch's OpenMP is loaded, so it comes before the import.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        start_logging()
        if is_group(settings):
            return _run_group(settings)
        _check_access(settings)
        check_address(settings.host, settings.port)
        with needs_extra("worker", "it"):
            from stepserve.metrics.status import Status

        # Served while the model is loaded as well: it lives then, and is not ready.
        status = Status(settings)
        with status.served(settings.host):
            with needs_extra("worker", "it"):
                from worker_svc.assembly import assemble
                from worker_svc.server import serve

                assembly = assemble(settings, uuid4().hex)
            failure = asyncio.run(serve(settings, assembly, status))
    except StepserveError as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 1
    log.info("worker %s ends: %s", assembly.info.incarnation, failure or "it was told to")
    if failure:
        print(f"{PROG}: {failure}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_BROKEN if failure else 0)


def _run_group(settings: WorkerSettings) -> int:
    """Run the ranks of a group that are this machine's. Raises StepserveError."""
    machine = machine_of(settings)
    if machine.index == 0:
        _check_access(settings)
        check_address(settings.host, settings.port)
    return run_ranks(settings, machine)


def _check_access(settings: WorkerSettings) -> None:
    """Raise StepserveError where others could drive it, or files are of no use, before all else."""
    settings.check_host()
    if any(settings.fleet_files.paths):
        settings.fleet_files.check_server()
    settings.token()


def main() -> int:
    print_any_character()
    try:
        return run(parse_settings(WorkerSettings, PROG, sys.argv[1:]))
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
