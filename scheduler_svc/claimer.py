"""Asks the queue for jobs, as many and as urgent as a lane's core wants."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from protos.errors import Unavailable
from protos.job import ClaimedJob
from scheduler_svc.core.events import Claim
from scheduler_svc.queue import JobQueue, Lease, Prefer

DOORBELL_WAIT_S = 1.0


class Claimer:
    """One wish at a time: the newest counts, and is answered once.

    ``moor`` is awaited before each look at the queue, ``take`` gets what was claimed.
    """

    def __init__(
        self,
        queue: JobQueue,
        lease: Lease,
        fingerprint: str,
        moor: Callable[[], Awaitable[None]],
        take: Callable[[Sequence[ClaimedJob]], None],
        prefer: Prefer | None,
    ) -> None:
        self._queue = queue
        self._lease = lease
        self._fingerprint = fingerprint
        self._moor = moor
        self._take = take
        self._prefer = prefer
        self._claim: Claim | None = None
        self._is_answered = False
        self._wished = asyncio.Event()
        self._eased = asyncio.Event()

    def want(self, claim: Claim) -> None:
        """Let this wish take the place of the one before.

        Between an answer and its being absorbed a wish is void: it does not know of the jobs
        that came. The core then wishes anew.
        """
        if self._is_answered:
            return
        if self._claim is None or claim.max_rank > self._claim.max_rank:
            self._eased.set()  # Jobs that were passed over may be wanted now.
        self._claim = claim
        self._wished.set()

    def absorbed(self) -> None:
        """The core knows what was taken: what it wishes from now on counts again."""
        self._is_answered = False

    async def run(self) -> None:
        """Claim again and again, until cancelled. Raises Fenced where the lease is lost."""
        while True:
            await self._wished.wait()
            self._eased.clear()
            seen = self._queue.num_arrivals
            claim = self._claim
            assert claim is not None, "a wish stands until it is answered"
            try:
                jobs = await self._ask(claim)
            except Unavailable:
                await asyncio.sleep(DOORBELL_WAIT_S)
                continue
            if jobs or not claim.stands:
                self._claim, self._is_answered = None, True
                self._wished.clear()
                self._take(jobs)
            else:
                await self._wait(seen)

    async def _ask(self, claim: Claim) -> Sequence[ClaimedJob]:
        await self._moor()
        max_jobs = await self._queue.allowance(self._lease, claim.max_jobs)
        return await self._queue.claim(
            self._lease, self._fingerprint, max_jobs, claim.max_rank, self._prefer
        )

    async def _wait(self, seen: int) -> None:
        """Wait until jobs arrived, or more of them are wanted."""
        waits = (self._queue.wait_for_jobs(seen, DOORBELL_WAIT_S), self._eased.wait())
        tasks = [asyncio.ensure_future(wait) for wait in waits]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
