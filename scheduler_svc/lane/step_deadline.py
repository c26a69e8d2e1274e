"""How long a worker may owe a report: learned from the steps that it has reported."""

from __future__ import annotations

from collections import Counter

from scheduler_svc.core.step_time import StepTime

# A step that takes so many times what it should is hung.
FACTOR = 10.0
# So many steps of a size must have been reported before its times count.
NUM_TO_LEARN = 2


class StepDeadline:
    """The time after which a step is hung, by its tokens.

    ``FACTOR`` times what the line through the reported steps says, at least ``least_s``
    seconds and at most ``most_s``. Kernels may be compiled for a step of a new size, and
    the first ones of a worker tell nothing: those may take ``most_s``. Sizes count as the
    same up to a factor of two.
    """

    def __init__(self, least_s: float, most_s: float) -> None:
        self.least_s = min(least_s, most_s)
        self._most_s = most_s
        self._times = StepTime()
        self._num_reported: Counter[int] = Counter()

    def observe(self, num_tokens: int, duration_us: int) -> None:
        """A step of ``num_tokens`` tokens was reported; it took ``duration_us`` microseconds."""
        self._num_reported[num_tokens.bit_length()] += 1
        self._times.observe(num_tokens, duration_us)

    def limit_s(self, num_tokens: int) -> float:
        """Return how long, in seconds, a step of ``num_tokens`` tokens may take."""
        if self._num_reported[num_tokens.bit_length()] < NUM_TO_LEARN:
            return self._most_s
        expected_s = self._times.predict_us(num_tokens) / 1e6
        return min(self._most_s, max(self.least_s, FACTOR * expected_s))
