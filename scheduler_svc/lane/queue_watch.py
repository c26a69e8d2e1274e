"""What becomes of a lane's jobs in Redis without the lane."""

from __future__ import annotations

import logging

from scheduler_svc.core.events import Cancelled
from scheduler_svc.lane.held_jobs import HeldJobs
from scheduler_svc.lane.loop import Inbox
from scheduler_svc.queue import JobQueue, Lease
from stepserve.protocol.errors import Unavailable

log = logging.getLogger(__name__)


class QueueWatch:
    """Tells the core of jobs that others ended, and gives back claims that nobody runs."""

    def __init__(self, queue: JobQueue, lease: Lease, held: HeldJobs, inbox: Inbox) -> None:
        self._queue = queue
        self._lease = lease
        self._held = held
        self._inbox = inbox
        self._may_have_orphans = False

    async def run(self) -> None:
        """Hear of jobs that a client or a deadline ended, though no row of theirs is committed."""
        running = self._held.running
        async for heard in self._queue.follow(hear_moved=False):
            ended = heard.ended & running.keys()
            if heard.everything:
                self._may_have_orphans = True
                try:
                    ended |= await self._queue.ended_of(tuple(running))
                except Unavailable:
                    continue  # the doorbell says so again when Redis is back
            if ended:
                self._inbox.put(Cancelled(tuple(ended)))

    async def requeue_orphans(self) -> None:
        """After a time in which Redis may have lost something: give back what nobody runs.

        A finish that a failover lost leaves its job claimed and forgotten. Between two
        claims, every job of the lease is held here, or is such a one.
        """
        if self._may_have_orphans:
            held = self._held.ids
            claimed = await self._queue.claimed(self._lease)
            if orphans := tuple(claimed - held):
                log.warning("lane %s: %d jobs wait again", self._lease.worker_id, len(orphans))
                await self._queue.requeue(self._lease, orphans)
            self._may_have_orphans = False
