"""How long outputs turn out to be: learned from those that ended, for each tenant."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from itertools import accumulate

MIN_SAMPLES = 8
MAX_TENANTS = 256
# Each bucket's lengths are up to a quarter longer than those of the one before.
EDGES = tuple(sorted({round(1.25**power) for power in range(72)}))


class Histogram:
    """Lengths counted in exponential buckets, and what remains of one that has got so far."""

    def __init__(self) -> None:
        self.num_samples = 0
        self._counts = [0] * (len(EDGES) + 1)
        self._totals = [0] * (len(EDGES) + 1)
        self._tails: tuple[list[float], list[float]] | None = None

    def add(self, length: int) -> None:
        """Count one output of ``length`` tokens."""
        bucket = bisect_right(EDGES, length)
        self.num_samples += 1
        self._counts[bucket] += 1
        self._totals[bucket] += length
        self._tails = None

    def remaining(self, generated: int) -> float:
        """Return the mean of what outputs longer than ``generated`` tokens have still to come.

        Those in the bucket of ``generated`` itself count as spread evenly over it. 0 where
        none is longer.
        """
        if self._tails is None:
            self._tails = _tail_sums(self._counts), _tail_sums(self._totals)
        bucket = bisect_right(EDGES, generated)
        counts, totals = self._tails[0][bucket + 1], self._tails[1][bucket + 1]
        if 0 < bucket < len(EDGES):
            low, high = EDGES[bucket - 1], EDGES[bucket]
            longer = self._counts[bucket] * (high - generated) / (high - low)
            counts += longer
            totals += longer * (generated + high) / 2
        return totals / counts - generated if counts else 0.0


class OutputLengths:
    """One histogram for each of the tenants seen last, and one of all."""

    def __init__(self) -> None:
        self._all = Histogram()
        self._tenants: OrderedDict[str, Histogram] = OrderedDict()

    def add(self, tenant: str, length: int) -> None:
        """An output of the tenant ended by itself after ``length`` tokens."""
        self._all.add(length)
        if tenant not in self._tenants:
            self._tenants[tenant] = Histogram()
            if len(self._tenants) > MAX_TENANTS:
                self._tenants.popitem(last=False)
        self._tenants.move_to_end(tenant)
        self._tenants[tenant].add(length)

    def remaining(self, tenant: str, generated: int, limit: int) -> float:
        """Return how many of at most ``limit`` more tokens to expect, at least one.

        Until enough outputs have ended, one is expected to go on for as long as it has gone:
        to be wrong then costs a preemption, to expect the limit would leave memory empty.
        """
        histogram = self._tenants.get(tenant, self._all)
        if histogram.num_samples < MIN_SAMPLES:
            histogram = self._all
        if histogram.num_samples < MIN_SAMPLES:
            return min(limit, max(1, generated))
        return min(limit, max(1.0, histogram.remaining(generated)))


def _tail_sums(values: list[int]) -> list[float]:
    """Sums of each value and all after it; 0 behind the last."""
    return [*list(accumulate(reversed(values)))[::-1], 0]
