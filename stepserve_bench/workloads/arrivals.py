"""When jobs come: gaps between arrivals, drawn from seeded chance."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Protocol


class Arrivals(Protocol):
    """The times of one stream's jobs."""

    def times_s(self, chance: random.Random) -> Iterator[float]:
        """Yield arrival times in order, without end, in seconds from the start."""
        ...


@dataclass(frozen=True, slots=True)
class AllAtOnce:
    """Everything is there at the start."""

    def times_s(self, chance: random.Random) -> Iterator[float]:  # noqa: ARG002
        return repeat(0.0)


@dataclass(frozen=True, slots=True)
class At:
    """At these times, in order; as many jobs."""

    when_s: tuple[float, ...]

    def times_s(self, chance: random.Random) -> Iterator[float]:  # noqa: ARG002
        return iter(self.when_s)


@dataclass(frozen=True, slots=True)
class Poisson:
    """Independent arrivals, ``rate`` a second on average."""

    rate: float

    def times_s(self, chance: random.Random) -> Iterator[float]:
        now_s = 0.0
        while True:
            now_s += chance.expovariate(self.rate)
            yield now_s


@dataclass(frozen=True, slots=True)
class Bursty:
    """Gamma-distributed gaps: ``rate`` a second on average, gaps vary by ``variation``.

    The variation is the gaps' standard deviation over their mean: 1 is Poisson, more comes
    in bursts.
    """

    rate: float
    variation: float = 3.0

    def times_s(self, chance: random.Random) -> Iterator[float]:
        shape = self.variation**-2
        now_s = 0.0
        while True:
            now_s += chance.gammavariate(shape, 1.0 / (shape * self.rate))
            yield now_s


@dataclass(frozen=True, slots=True)
class OnOff:
    """Storms: Poisson at ``rate`` for ``on_s`` seconds, then nothing for ``off_s``, and again."""

    rate: float
    on_s: float
    off_s: float

    def times_s(self, chance: random.Random) -> Iterator[float]:
        on_time_s = 0.0
        while True:
            on_time_s += chance.expovariate(self.rate)
            yield on_time_s + self.off_s * (on_time_s // self.on_s)


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """``num_clients`` clients; each sends its next job when its last one has ended.

    The first ones come at the start; the simulation makes the others come.
    """

    num_clients: int

    def times_s(self, chance: random.Random) -> Iterator[float]:  # noqa: ARG002
        return repeat(0.0, self.num_clients)
