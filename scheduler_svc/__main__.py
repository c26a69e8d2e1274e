"""``python -m scheduler_svc``: one scheduler, until SIGTERM."""

from __future__ import annotations

import sys

from scheduler_svc.settings import PROG, SchedulerSettings
from stepserve.process.command_line import parse_settings, print_any_character
from stepserve.process.extras import NotInstalled, needs_extra


def main() -> int:
    print_any_character()
    settings = parse_settings(SchedulerSettings, PROG, sys.argv[1:])
    try:
        with needs_extra("scheduler", "it"):
            from scheduler_svc.server import run

            return run(settings)
    except NotInstalled as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
