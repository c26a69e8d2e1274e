"""What is said, on standard error, while services start: nobody waits before a silent screen."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

SAY_AGAIN_S = 10.0


class Starting:
    """Says what is begun, and again and again that it goes on. Times are from its making."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, *, is_silent: bool = False
    ) -> None:
        self._clock = clock
        self._is_silent = is_silent
        self._begun_s = clock()
        self._said_s = self._begun_s
        self._what = ""

    def begin(self, what: str) -> None:
        """Say what is done now."""
        self._what = what
        self._say(f"{what} ...")

    def goes_on(self) -> None:
        """Call often while it is waited for."""
        if self._clock() - self._said_s >= SAY_AGAIN_S:
            self._say(f"still {self._what} ... ({self._clock() - self._begun_s:.0f} s so far)")

    def end(self, told: str) -> None:
        """Say that everything is there."""
        self._say(f"ready after {self._clock() - self._begun_s:.1f} s; {told}")

    def _say(self, text: str) -> None:
        if not self._is_silent:
            print(f"stepserve: {text}", file=sys.stderr, flush=True)
        self._said_s = self._clock()
