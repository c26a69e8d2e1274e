"""Which fault strikes when: a pure function of a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from stepserve_bench.chaos.kinds import KINDS

T = TypeVar("T")
# Gaps are between once and so many times what is asked for: no fault is in step with a timer.
LONGEST_GAP = 1.5


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that is to come.

    ``at_s``: seconds after the first may strike; ``victim``, from 0 to 1, chooses among those who
    are there then; ``lasts_s``: how long it lasts.
    """

    number: int
    kind: str
    at_s: float
    victim: float
    lasts_s: float

    def choose(self, candidates: Sequence[T]) -> T:
        """Return the one that is struck."""
        return candidates[int(self.victim * len(candidates))]


def schedule(seed: int, kinds: Sequence[str], count: int, apart_s: float) -> list[Fault]:
    """Return ``count`` faults, in their order, each at least ``apart_s`` after the one before.

    Kinds come equally often: all of them in a random order, and then again in another one.
    """
    chance = random.Random(seed)
    faults: list[Fault] = []
    bag: list[str] = []
    at_s = 0.0
    for number in range(count):
        if not bag:
            bag = chance.sample(list(kinds), len(kinds))
        kind = bag.pop()
        lasts_s = chance.uniform(*KINDS[kind].lasts_s)
        faults.append(Fault(number, kind, at_s, chance.random(), lasts_s))
        at_s += apart_s * chance.uniform(1.0, LONGEST_GAP)
    return faults
