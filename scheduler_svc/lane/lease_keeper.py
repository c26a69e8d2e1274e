"""Keeps a lease, and says when it could be somebody else's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from scheduler_svc.queue import Fenced, JobQueue, Lease
from stepserve.protocol.errors import Unavailable

# Of its time to live: when to ask again, and when to stop trusting it.
RENEW_SHARE = 1 / 6
TRUST_SHARE = 2 / 3
# Who is not sure computes nothing: it is to be known at once when Redis is back.
RETRY_WAIT_S = 0.05


class OutOfOrder(Exception):
    """Another order was adopted: the ranks that a lane holds compare with no newer ones."""


class LeaseKeeper:
    """Renews a lease until cancelled.

    ``is_sure`` is cleared at two thirds of the time to live without an answer, by this
    process's monotonic clock, whether Redis refuses or hangs; it is set again when Redis
    answers that the lease is still ours. With each renewal it tells how long a step takes,
    in microseconds, and how many KV blocks are held: what ``pace`` returns.
    """

    def __init__(self, queue: JobQueue, lease: Lease, pace: Callable[[], tuple[int, int]]) -> None:
        self._queue = queue
        self._pace = pace
        self._lease = lease
        self._ttl_s = lease.ttl_ms / 1000
        self.is_sure = asyncio.Event()
        self.is_sure.set()

    async def run(self) -> None:
        """Renew again and again.

        Raises Fenced when the lease is another's, OutOfOrder when the jobs were ranked anew.
        """
        trusted_until_s = time.monotonic() + self._ttl_s * TRUST_SHARE
        pause_s = renew_s = self._ttl_s * RENEW_SHARE
        while True:
            await asyncio.sleep(pause_s)
            asked_s = time.monotonic()
            try:
                async with asyncio.timeout(self._patience_s(trusted_until_s)):
                    renewal = await self._queue.renew(self._lease, *self._pace())
            except (Unavailable, TimeoutError):
                if time.monotonic() >= trusted_until_s:
                    self.is_sure.clear()
                pause_s = min(RETRY_WAIT_S, renew_s)
                continue
            if not renewal.is_ours:
                raise Fenced(self._lease.worker_id)
            if not renewal.is_in_order:
                raise OutOfOrder(self._lease.worker_id)
            trusted_until_s = asked_s + self._ttl_s * TRUST_SHARE
            pause_s = renew_s
            self.is_sure.set()

    def _patience_s(self, trusted_until_s: float) -> float | None:
        """Wait for an answer no longer than the lease is trusted; after that, as the queue does."""
        left_s = trusted_until_s - time.monotonic()
        return left_s if left_s > 0 else None
