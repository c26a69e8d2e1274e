"""How long outputs turn out to be: learned from those that ended, for each tenant."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from itertools import accumulate
from operator import neg

MIN_SAMPLES = 8
# At so many the counts are halved: what ended long ago fades.
MAX_SAMPLES = 2000
MAX_TENANTS = 256
# Each bucket's lengths are up to a quarter longer than those of the one before.
EDGES = tuple(sorted({round(1.25**power) for power in range(72)}))


class Histogram:
    """Lengths counted in exponential buckets, and what remains of one that has got so far."""

    def __init__(self) -> None:
        self.num_samples = 0.0
        self._counts = [0.0] * (len(EDGES) + 1)
        self._totals = [0.0] * (len(EDGES) + 1)
        self._tail_sums: tuple[list[float], list[float]] | None = None

    def add(self, length: int) -> None:
        """Count one output of ``length`` tokens."""
        bucket = bisect_right(EDGES, length)
        self.num_samples += 1
        self._counts[bucket] += 1
        self._totals[bucket] += length
        if self.num_samples >= MAX_SAMPLES:
            self.num_samples /= 2
            self._counts = [count / 2 for count in self._counts]
            self._totals = [total / 2 for total in self._totals]
        self._tail_sums = None

    def remaining(self, generated: int) -> float:
        """Return the mean of what outputs longer than ``generated`` tokens have still to come.

        Those in the bucket of ``generated`` itself count as spread evenly over it. 0 where
        none is longer.
        """
        bucket, longer, high = self._split(generated)
        counts, totals = self._tails()
        count = counts[bucket + 1] + longer
        total = totals[bucket + 1] + longer * (generated + high) / 2
        return total / count - generated if count else 0.0

    def drawn(self, generated: int, quantile: float) -> float:
        """Return what remains of the output at ``quantile`` (0 to 1) of those that got so far.

        Many sequences with quantiles spread evenly end as outputs do: some soon, some late.
        """
        bucket, longer, high = self._split(generated)
        counts, _ = self._tails()
        shorter = quantile * (counts[bucket + 1] + longer)
        if shorter <= longer:
            return (high - generated) * (shorter / longer if longer else 0.0)
        # Tails fall: look for the last bucket with at least as many at or beyond it as are longer.
        beyond = counts[bucket + 1] - (shorter - longer)
        found = bisect_left(counts, -beyond, lo=bucket + 1, key=neg)
        found = min(max(found - 1, bucket + 1), len(EDGES))
        mean = self._totals[found] / self._counts[found] if self._counts[found] else high
        return max(0.0, mean - generated)

    def _split(self, generated: int) -> tuple[int, float, int]:
        """The bucket of ``generated``, how many in it are longer, and its end."""
        bucket = bisect_right(EDGES, generated)
        if not 0 < bucket < len(EDGES):
            return bucket, 0.0, generated
        low, high = EDGES[bucket - 1], EDGES[bucket]
        return bucket, self._counts[bucket] * (high - generated) / (high - low), high

    def _tails(self) -> tuple[list[float], list[float]]:
        """Counts and totals of each bucket and all after it."""
        if self._tail_sums is None:
            self._tail_sums = _tail_sums(self._counts), _tail_sums(self._totals)
        return self._tail_sums


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
        histogram = self._histogram(tenant)
        remaining = float(generated) if histogram is None else histogram.remaining(generated)
        return min(limit, max(1.0, remaining))

    def drawn(self, tenant: str, generated: int, limit: int, quantile: float) -> float:
        """The same of the output at ``quantile`` of those that got so far."""
        histogram = self._histogram(tenant)
        remaining = float(generated) if histogram is None else histogram.drawn(generated, quantile)
        return min(limit, max(1.0, remaining))

    def _histogram(self, tenant: str) -> Histogram | None:
        """The tenant's, that of all where it has few, None where all have few."""
        for histogram in (self._tenants.get(tenant, self._all), self._all):
            if histogram.num_samples >= MIN_SAMPLES:
                return histogram
        return None


def _tail_sums(values: list[float]) -> list[float]:
    """Sums of each value and all after it; 0 behind the last."""
    return [*list(accumulate(reversed(values)))[::-1], 0.0]
