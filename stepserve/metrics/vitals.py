"""Whether a process lives and is ready, as it knows itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

# What is wrong, in one line; empty where nothing is.
Check = Callable[[], str]

BEAT_INTERVAL_S = 0.5
# An event loop that has not turned for so long hangs: noticed within 3 s of the last turn.
MAX_SILENCE_S = 2.5


class Vitals:
    """Told by the process's event loop, asked by other threads.

    Progress counts, not presence: the loop says again and again that it turns. Before it
    begins to, the process starts: it lives, and is not ready.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._beaten_s: float | None = None
        self._is_ending = False
        self._alive: list[Check] = []
        self._ready: list[Check] = []

    async def beat(self) -> None:
        """Say that the event loop turns, until cancelled."""
        while True:
            self._beaten_s = self._clock()
            await asyncio.sleep(BEAT_INTERVAL_S)

    def require(self, *, alive: Check | None = None, ready: Check | None = None) -> None:
        """Ask this, too, from now on."""
        self._alive += [alive] if alive else []
        self._ready += [ready] if ready else []

    def end(self) -> None:
        """The process stops: nobody should come any more."""
        self._is_ending = True

    @property
    def illness(self) -> str:
        """Why the process should be started again; empty where it should not."""
        if self._beaten_s is None:
            return ""
        silent_s = self._clock() - self._beaten_s
        if silent_s > MAX_SILENCE_S:
            return f"its event loop has not turned for {silent_s:.1f} s"
        return _first(self._alive)

    @property
    def unreadiness(self) -> str:
        """Why it should be given nothing to do now; empty where it should."""
        if self._beaten_s is None:
            return "it starts"
        if self._is_ending:
            return "it stops"
        return self.illness or _first(self._ready)


def _first(checks: list[Check]) -> str:
    return next(filter(None, (check() for check in checks)), "")
