"""Processes that end with the one that started them, even where that is killed outright.

A parent that is killed stops nothing itself. The kernel tells the child instead (Linux;
elsewhere the child just runs). Asked for in the child's own main thread, and not between fork
and exec, where a program with threads must not run Python: this file is run as a program,

    python -m stepserve.process.tether PARENT_PID (-m MODULE | PROGRAM) [ARGUMENT ...]

It imports nothing of ours, so that it also starts without any site-packages.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

PR_SET_PDEATHSIG = 1
# For a child whose lines we read: at once, and each character as it is.
PIPED = {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}


def tethered(module: str, *arguments: str) -> list[str]:
    """Return the command line that runs ``module`` as a child of this process.

    The current directory is not on the child's path: it is the user's, and a folder in it may
    be called as a package of ours is. PYTHONPATH is.
    """
    own = ["-P", "-m", "stepserve.process.tether", str(os.getpid())]
    return [sys.executable, *own, "-m", module, *arguments]


def tethered_program(program: str, *arguments: str) -> list[str]:
    """Return the command line that runs another ``program``, by its path, as a child of this."""
    return [sys.executable, "-IS", __file__, str(os.getpid()), program, *arguments]


def end_with(parent: int, signum: int = signal.SIGTERM) -> None:
    """Let the kernel send this process a signal when ``parent``, which started it, ends.

    Raises SystemExit where the parent is gone already.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signum)
        if os.getppid() != parent:
            sys.exit("the process that started this one is gone")


def main() -> None:
    parent, *command = sys.argv[1:]
    end_with(int(parent))
    if command[0] != "-m":
        os.execv(command[0], command)
    _, module, *arguments = command
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
