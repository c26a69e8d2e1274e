"""``python -m worker_svc``: one worker, until SIGTERM."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from uuid import uuid4

from pydantic import ValidationError
from pydantic_settings import CliApp, CliSettingsSource, SettingsError

from protos.errors import StepserveError
from worker_svc.settings import WorkerSettings

PROG = "stepserve worker"
# A step failed: the device or the program is broken, another process may do better.
EXIT_BROKEN = 3


def run(settings: WorkerSettings) -> int:
    """Serve until SIGTERM or SIGINT. Return 1 where nothing can be served; stderr says why.

    Once it has served, it ends the process: with status 0 after a signal, with EXIT_BROKEN
    after a failed step. To unload torch takes seconds and gives nothing back, and a broken
    device or a step that hangs may never let go.
    """
    # Idle threads that spin cost a small machine more than any kernel can win. Read when
    # torch's OpenMP is loaded, so it comes before the import.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from worker_svc.assembly import assemble
    from worker_svc.server import serve

    try:
        assembly = assemble(settings, uuid4().hex)
        failure = asyncio.run(serve(settings, assembly))
    except StepserveError as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 1
    if failure:
        print(f"{PROG}: {failure}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_BROKEN if failure else 0)


def parse(argv: Sequence[str]) -> WorkerSettings:
    """Return the settings; exit with status 2 where the arguments are wrong."""
    source: CliSettingsSource[WorkerSettings] = CliSettingsSource(
        WorkerSettings,
        cli_prog_name="python -m worker_svc",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )
    try:
        return CliApp.run(WorkerSettings, cli_args=list(argv), cli_settings_source=source)
    except (ValidationError, SettingsError) as error:
        print(f"{PROG}: {_problems(error)}", file=sys.stderr)
        raise SystemExit(2) from None


def _problems(error: ValidationError | SettingsError) -> str:
    if isinstance(error, SettingsError):
        return str(error)
    return "; ".join(
        f"--{'.'.join(map(str, problem['loc'])).replace('_', '-')}: {problem['msg']}"
        for problem in error.errors(include_url=False, include_input=False)
    )


def main() -> int:
    try:
        return run(parse(sys.argv[1:]))
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
