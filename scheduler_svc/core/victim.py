"""Who gives way when blocks run out, or when somebody much more urgent waits."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from scheduler_svc.core.sequence import Sequence


def for_blocks(running: Collection[Sequence]) -> Sequence:
    """Return the cheapest of the less urgent half. At least two must run.

    The first in order is never it, whatever happens: it ends, then the next is first; so
    everybody ends.
    """
    by_order = sorted(running, key=lambda sequence: sequence.order)
    return cheapest(by_order[len(by_order) // 2 :])


def cheapest(candidates: Iterable[Sequence]) -> Sequence:
    """Return the one with the least to compute again; who gave way before costs more."""
    return min(candidates, key=_cost)


def _cost(sequence: Sequence) -> tuple[int, float]:
    return sequence.num_computed * (1 + sequence.num_preemptions), -sequence.rank
