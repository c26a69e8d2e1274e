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
        bucket = round(math.log(value) / _LOG_GROWTH)
        self._counts[bucket] = self._counts.get(bucket, 0) + times

    def merge(self, other: Histogram) -> None:
        """Count everything that ``other`` has."""
        for bucket, times in other._counts.items():
            self._counts[bucket] = self._counts.get(bucket, 0) + times
        self._num_zero += other._num_zero
        self.count += other.count
        self.total += other.total

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else float("nan")

    def quantile(self, fraction: float) -> float:
        """Return the nearest-rank quantile, of a fraction from 0 to 1; NaN of nothing."""
        if not self.count:
            return float("nan")
        rank = max(1, math.ceil(fraction * self.count))
        seen = self._num_zero
        if rank <= seen:
            return 0.0
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            if seen >= rank:
                return math.exp(bucket * _LOG_GROWTH)
        raise AssertionError("a rank beyond the count")
