"""What a worker has done, counted step by step."""

from __future__ import annotations

import time

from stepserve.metrics.histogram import Histogram
from stepserve.protocol.step import StepReport

_STEP_S = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2,
    0.5, 1, 2, 5, 10, 60,
)  # fmt: skip


class Tally:
    """Written by the event loop, read by whoever tells of it.

    ``starved_s``: how long the device had nothing to do while the worker held sequences.
    """

    def __init__(self) -> None:
        self.step_s = Histogram(_STEP_S)
        self.num_tokens = 0
        self.num_positions = 0
        self.num_context = 0
        self.num_refused = 0
        self.num_hellos = 0
        self.starved_s = 0.0
        self._starved_since_s: float | None = None

    def starves_no_more(self) -> None:
        """The device gets a step, or there is no sequence left that one could be for."""
        if self._starved_since_s is not None:
            self.starved_s += time.monotonic() - self._starved_since_s
            self._starved_since_s = None

    def landed(self, report: StepReport, *, is_starved: bool) -> None:
        """A step is over; ``is_starved``: there is no other one, though there are sequences."""
        self.step_s.observe(report.duration_us / 1e6)
        self.num_tokens += len(report.token_ids)
        self.num_positions += report.num_positions
        self.num_context += report.num_context
        if is_starved:
            self._starved_since_s = time.monotonic()
