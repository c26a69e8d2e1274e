"""Stop a process, or one thread of it, as the kernel does: nothing in it can notice or help."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Not PTRACE_ATTACH: its SIGSTOP is lost where somebody sends the process a SIGCONT.
PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH = 0x4206, 0x4207, 17
WAIT_ALL = 0x40000000  # __WALL: threads as well

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


@contextmanager
def stopped_process(pid: int) -> Iterator[None]:
    """Stop a process for the time of the block (SIGSTOP); it may be killed meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@contextmanager
def stopped_thread(pid: int, name: str) -> Iterator[None]:
    """Stop the one thread of a process that has this name, for the time of the block.

    By tracing it, as a debugger would: SIGSTOP stops all of a process. Begin and end must be
    on one thread of ours. Raises PermissionError where the system allows nobody to trace.
    """
    [thread_id] = [
        int(path.parent.name)
        for path in Path(f"/proc/{pid}/task").glob("*/comm")
        if path.read_text().strip() == name
    ]
    _trace(PTRACE_SEIZE, thread_id)
    _trace(PTRACE_INTERRUPT, thread_id)
    os.waitpid(thread_id, WAIT_ALL)
    try:
        yield
    finally:
        try:
            _trace(PTRACE_DETACH, thread_id)
        except ProcessLookupError:
            # It was killed meanwhile. Until who traces a thread has waited for it, its process
            # does not end either.
            with contextlib.suppress(ChildProcessError):
                os.waitpid(thread_id, WAIT_ALL)


def _trace(request: int, thread_id: int) -> None:
    if _libc.ptrace(request, thread_id, None, None):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
