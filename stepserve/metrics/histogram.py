"""How values are spread, kept as counts: cheap enough for what happens in every step."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence


class Histogram:
    """Counts of values up to each bound, and above the last.

    Written by one thread and read by others, which may see a value counted and not yet summed.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, count: int = 1) -> None:
        """Take note of a value that was there ``count`` times."""
        self.counts[bisect_left(self.bounds, value)] += count
        self.total += value * count
