"""Many durations in little memory."""

from __future__ import annotations

import math

_GROWTH = 1.005
_LOG_GROWTH = math.log(_GROWTH)


class Histogram:
    """Counts by size, each bin half a percent wide; quantiles are as exact as that."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._num_zero = 0
        self.count = 0
        self.total = 0.0

    def add(self, value: float, times: int = 1) -> None:
        """Count ``value``, at least 0, so many times."""
        self.count += times
        self.total += value * times
        if value <= 0.0:
            self._num_zero += times
            return
        place = round(math.log(value) / _LOG_GROWTH)
        self._counts[place] = self._counts.get(place, 0) + times

    def merge(self, other: Histogram) -> None:
        """Count everything that ``other`` has."""
        for place, times in other._counts.items():
            self._counts[place] = self._counts.get(place, 0) + times
        self._num_zero += other._num_zero
        self.count += other.count
        self.total += other.total

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else float("nan")

    def quantile(self, share: float) -> float:
        """Return the nearest-rank quantile; NaN of nothing."""
        if not self.count:
            return float("nan")
        rank = max(1, math.ceil(share * self.count))
        seen = self._num_zero
        if rank <= seen:
            return 0.0
        for place in sorted(self._counts):
            seen += self._counts[place]
            if seen >= rank:
                return math.exp(place * _LOG_GROWTH)
        raise AssertionError("a rank beyond the count")
