"""What is said, on standard error, while services start and stop: no screen stays silent."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

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

    def begin(self, what: str, again: str = "") -> None:
        """Say what is done now; ``again`` is what is said of it later, if that is to be shorter."""
        self._what = again or what
        self._say(f"{what} ...")

    def goes_on(self) -> None:
        """Call often while it is waited for."""
        if self._clock() - self._said_s >= SAY_AGAIN_S:
            since_s = self._clock() - self._begun_s
            self._say(f"still {self._what} ... ({since_s:.0f} s since the start)")

    def end(self, told: str) -> None:
        """Say that everything is there."""
        self._say(f"ready after {self._clock() - self._begun_s:.1f} s; {told}")

    def stop(self) -> None:
        """Say that all that was started is stopped now."""
        self._say("stopping ...")

    def stopped(self, kept: Path | None) -> None:
        """Say that it has ended, and where the jobs are; None where they are nobody's now."""
        told = f"; the jobs are kept in {kept}: the same command goes on with them" if kept else ""
        self._say(f"stopped{told}")

    def _say(self, text: str) -> None:
        if not self._is_silent:
            print(f"stepserve: {text}", file=sys.stderr, flush=True)
        self._said_s = self._clock()
