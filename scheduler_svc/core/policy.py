"""Who goes first, and who makes room."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from scheduler_svc.core.sequence import Sequence


class Policy(Protocol):
    """Chooses among sequences; each collection has at least one.

    To stay live, the one that ``next`` prefers to all others must never be the ``victim``
    while another one runs.
    """

    def next(self, waiting: Collection[Sequence]) -> Sequence:
        """Return the one to admit; while it does not fit, nobody else is admitted."""
        ...

    def victim(self, running: Collection[Sequence]) -> Sequence:
        """Return the one to preempt when blocks run out."""
        ...


class FirstComeFirstServed:
    """By arrival; whoever came last gives way. A requeued job keeps its arrival."""

    def next(self, waiting: Collection[Sequence]) -> Sequence:
        return min(waiting, key=_arrival)

    def victim(self, running: Collection[Sequence]) -> Sequence:
        return max(running, key=_arrival)


def _arrival(sequence: Sequence) -> tuple[float, str, int]:
    return sequence.spec.arrival_s, sequence.spec.job_id, sequence.index
