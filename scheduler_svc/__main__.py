"""``python -m scheduler_svc``: one scheduler, until SIGTERM."""

from __future__ import annotations

import sys

from scheduler_svc.server import PROG, run
from scheduler_svc.settings import SchedulerSettings
from stepserve.process.command_line import parse_settings, print_any_character

if __name__ == "__main__":
    print_any_character()
    sys.exit(run(parse_settings(SchedulerSettings, PROG, sys.argv[1:])))
