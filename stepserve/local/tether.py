"""``python -m stepserve.local.tether PARENT_PID MODULE ...``: a module that ends with its parent.

A parent that is killed outright stops nothing itself. The kernel tells the child instead
(Linux; elsewhere the module just runs). Done here, in the child's own main thread, and not
between fork and exec, where a program with threads must not run Python.
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
    """Return the command line that runs ``module`` as a child of this process."""
    return [sys.executable, "-m", "stepserve.local.tether", str(os.getpid()), module, *arguments]


def main() -> None:
    parent, module = int(sys.argv[1]), sys.argv[2]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            sys.exit(f"{module}: the process that started it is gone")
    sys.argv = [module, *sys.argv[3:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
