"""Being told to stop, for a process that watches others.

A handler runs in the middle of whatever the main thread does, of another handler too: where
two signals come at once (``timeout`` sends two, an impatient person as well), a
``threading.Event`` is set while it is being set, and waits for its own lock for ever. So what a
handler sets here has no lock.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

_INTERVAL_S = 0.05


class Stop(Protocol):
    """Whether we are to stop."""

    def is_set(self) -> bool: ...

    def wait(self, timeout: float) -> bool: ...


class StopFlag:
    """Set once, from anywhere."""

    def __init__(self) -> None:
        self._is_set = False

    def set(self) -> None:
        self._is_set = True

    def is_set(self) -> bool:
        return self._is_set

    def wait(self, timeout: float) -> bool:
        """Return whether it is set, after ``timeout`` seconds at most."""
        end_s = time.monotonic() + timeout
        while not self._is_set and (left_s := end_s - time.monotonic()) > 0:
            time.sleep(min(left_s, _INTERVAL_S))
        return self._is_set


@contextmanager
def stop_signals() -> Iterator[StopFlag]:
    """Set a flag on SIGINT or SIGTERM, until the block ends."""
    stop = StopFlag()

    def handler(_signum: int, _frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def unbroken() -> Iterator[None]:
    """Let Ctrl-C wait until the block has ended; it is raised then. Of the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _frame: waiting.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if waiting:
        raise KeyboardInterrupt
