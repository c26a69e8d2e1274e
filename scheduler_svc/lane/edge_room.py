"""How much of what edges keep all lanes of a process may hold."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from scheduler_svc.lane.held_jobs import HeldJobs

MAX_BYTES = 64 * 2**20


class EdgeRoom:
    """One bound for all lanes together: a takeover gives them many jobs in one moment.

    Who has the ``turn`` may ask for room and fill it.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.turn = asyncio.Lock()
        self._max_bytes = max_bytes
        self._held: list[HeldJobs] = []

    @contextmanager
    def shared_by(self, held: HeldJobs) -> Iterator[None]:
        """Count what is held by a lane, for as long as it is driven."""
        self._held.append(held)
        try:
            yield
        finally:
            self._held.remove(held)

    def has(self, num_bytes: int) -> bool:
        """Whether there is room for so much more."""
        return sum(held.num_edge_bytes for held in self._held) + num_bytes <= self._max_bytes
