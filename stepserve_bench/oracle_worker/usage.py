"""How long a device was at work, and how long it took to be told what to do next."""

from __future__ import annotations

import time

from stepserve_bench.measure.figures import percentile

# As a scheduler has them by default.
STEPS_IN_FLIGHT = 2


class Usage:
    """Times of a device, in seconds of the monotonic clock."""

    def __init__(self, max_rows: int) -> None:
        self._busy_s = 0.0
        # Of steps that are at least half full: how long they took, and how long the device stood
        # still before them though the step before had been as full.
        self._full_rows = -(-max_rows // 2)
        self._full_s = self._idle_s = 0.0
        self._was_full = False
        self._first_s: float | None = None
        self._last_s = 0.0
        self._reported_s: dict[int, float] = {}
        self._turnarounds_s: list[float] = []

    def worked(self, begin_s: float, end_s: float, num_rows: int) -> None:
        """It was at a step of so many rows."""
        is_full = num_rows >= self._full_rows
        if is_full:
            self._full_s += end_s - begin_s
            self._idle_s += max(0.0, begin_s - self._last_s) * self._was_full
        self._was_full = is_full
        self._first_s = begin_s if self._first_s is None else self._first_s
        self._busy_s += end_s - begin_s
        self._last_s = end_s

    def reported(self, step: int) -> None:
        """A step's report goes out now."""
        self._reported_s[step] = time.monotonic()

    def commanded(self, step: int) -> None:
        """A step comes now; the report of an earlier one let it be planned."""
        asked_s = self._reported_s.pop(step - STEPS_IN_FLIGHT, None)
        if asked_s is not None:
            self._turnarounds_s.append(time.monotonic() - asked_s)

    def figures(self) -> dict[str, float]:
        """Return the seconds at work, those in all, and percentiles of the turnaround (ms).

        ``full_s`` and ``idle_s``: at work with at least half of the rows, and waiting between two
        such steps.
        """
        fractions = {"p50": 0.5, "p99": 0.99}
        turnarounds = {
            f"turnaround_ms_{name}": percentile(self._turnarounds_s, fraction) * 1e3
            for name, fraction in fractions.items()
        }
        begin_s = self._last_s if self._first_s is None else self._first_s
        seconds = max(self._last_s - begin_s, 1e-9)
        full = {"full_s": self._full_s, "idle_s": self._idle_s}
        return {"busy_s": self._busy_s, "seconds": seconds, **full, **turnarounds}
