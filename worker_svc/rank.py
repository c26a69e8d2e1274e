"""``python -m worker_svc.rank PLACE SETTINGS``: one process of a worker that is a group of them."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING
from uuid import uuid4

from stepserve.process.command_line import print_any_character
from stepserve.process.extras import needs_extra
from stepserve.process.logs import start_logging
from stepserve.process.tether import end_with
from stepserve.protocol.errors import StepserveError, one_line
from worker_svc.group.life import PROG
from worker_svc.group.place import Place
from worker_svc.settings import WorkerSettings

if TYPE_CHECKING:
    from worker_svc.group.member import Member

log = logging.getLogger("worker_svc")

EXIT_REFUSED = 1


def run(place: Place, settings: WorkerSettings) -> int:
    """Be one rank until the group ends, which ends the process. Return 1 where it never was one."""
    # It has nothing to put in order, and one that is stopped would not hear anything else.
    end_with(place.parent, signal.SIGKILL)
    # Also where it waits for others, in a call that would keep a handler of ours from running.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        start_logging()
        with needs_extra("worker", "it"):
            from worker_svc.group.member import Member
            from worker_svc.group.team import Team

            member = Member(Team(place))
    except StepserveError as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return EXIT_REFUSED
    try:
        _live(member, settings, place.name, is_leader=place.rank == 0)
    except StepserveError as error:
        member.fail(str(error), EXIT_REFUSED)
    except Exception as error:  # of a step, of torch, or of a connection: all of it ends
        log.debug("%s fails", place.name, exc_info=True)
        member.fail(one_line(error))
    member.end()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _live(member: Member, settings: WorkerSettings, name: str, *, is_leader: bool) -> None:
    """Load, warm up and serve, until the group is to end."""
    from stepserve.metrics.status import Status
    from worker_svc.assembly import assemble
    from worker_svc.server import serve

    if not is_leader:
        # Who drives the group knows it by rank 0; the others only have names.
        assemble(settings, name, member)
        member.start()
        member.follow()
        return
    status = Status(settings)
    with status.served(settings.host):
        assembly = assemble(settings, uuid4().hex, member)
        member.start()
        failure = asyncio.run(serve(settings, assembly, status))
    log.info("worker %s ends: %s", assembly.info.incarnation, failure or "it was told to")
    if failure:
        member.fail(failure)


def main() -> int:
    print_any_character()
    place, settings = sys.argv[1:]
    return run(Place.decode(place), WorkerSettings(**json.loads(settings)))


if __name__ == "__main__":
    sys.exit(main())
