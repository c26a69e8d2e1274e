"""How long streams stood still for a fault, from when their tokens came."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from stepserve_bench.chaos.ledger import Ledger
from stepserve_bench.measure.figures import percentile

# A gap that is no pause between two steps, in seconds: what the picture shows.
SHOWN_S = 0.3


@dataclass(frozen=True, slots=True)
class Struck:
    """A fault that struck, ``at_s`` of the run's clock.

    ``what`` names the victims; ``job_ids`` are those that it concerned, ``healed_s`` is when all
    that was struck served again, None where it never did.
    """

    kind: str
    at_s: float
    what: str
    job_ids: frozenset[str]
    healed_s: float | None = None


def stall_s(times_s: Sequence[float], at_s: float, until_s: float) -> float | None:
    """The longest time without a token for a fault at ``at_s``, up to the next at ``until_s``.

    Counted from the last token before the fault. None where there was none yet, or no more came.
    """
    first = sum(time_s <= at_s for time_s in times_s) - 1
    if first < 0 or first + 1 >= len(times_s):
        return None
    return max(b - a for a, b in pairwise(times_s[first:]) if a < until_s)


def stalls_s(ledger: Ledger, fault: Struck, until_s: float) -> list[float]:
    """How long each output that the fault concerned stood still."""
    entries = [ledger.entries[i] for i in fault.job_ids if i in ledger.entries]
    found = [
        stall_s(seen.times_s, fault.at_s, until_s) for entry in entries for seen in entry.outputs
    ]
    return [seconds for seconds in found if seconds is not None]


def by_kind(ledger: Ledger, faults: Sequence[Struck]) -> Mapping[str, dict[str, float]]:
    """Return by kind: how many faults, how many outputs, median, p99 and maximum in seconds."""
    ends_s = [fault.at_s for fault in faults[1:]] + [math.inf]
    found: dict[str, list[float]] = {}
    counts: dict[str, int] = {}
    for fault, until_s in zip(faults, ends_s, strict=True):
        found.setdefault(fault.kind, []).extend(stalls_s(ledger, fault, until_s))
        counts[fault.kind] = counts.get(fault.kind, 0) + 1
    return {
        kind: {"faults": counts[kind], "streams": len(stalls), **_percentiles(stalls)}
        for kind, stalls in sorted(found.items())
    }


def _percentiles(stalls: Sequence[float]) -> dict[str, float]:
    """Nothing of nothing: JSON has no NaN."""
    if not stalls:
        return {}
    fractions = {"median_s": 0.5, "p99_s": 0.99, "max_s": 1.0}
    return {name: round(percentile(stalls, part), 3) for name, part in fractions.items()}


def gaps(ledger: Ledger) -> Iterable[tuple[float, float]]:
    """Yield when each pause of a stream began and how long it was, those that can be seen."""
    for entry in ledger.entries.values():
        for seen in entry.outputs:
            for a, b in pairwise(seen.times_s):
                if b - a >= SHOWN_S:
                    yield a, b - a
