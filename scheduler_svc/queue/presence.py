"""Who follows the jobs that end when nobody does: of all replicas, in Redis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scheduler_svc.queue.ending import Ending, Unless
from scheduler_svc.queue.shard import Shard
from stepserve.protocol.job import Finish


@dataclass(frozen=True, slots=True)
class Presence:
    """One replica's streams among all. A word of it is good for ``ttl_ms``, then forgotten."""

    shard: Shard
    ending: Ending
    replica: str
    ttl_ms: int

    async def follow(self, job_ids: Sequence[str]) -> None:
        """Clients of this replica follow these jobs now."""
        await self._follow(job_ids, self.ttl_ms)

    async def leave(self, job_id: str, grace_ms: int) -> None:
        """They do not any more; that counts after the grace, of at most ``ttl_ms``."""
        await self._follow([job_id], grace_ms)

    async def cancel(self, job_id: str, finish: Finish) -> bool:
        """End the job unless another replica's clients follow it; whether that ended it."""
        return await self.ending.end(job_id, finish, Unless(self.replica, self.ttl_ms))

    async def _follow(self, job_ids: Sequence[str], for_ms: int) -> None:
        if job_ids:
            keys = self.shard.keys
            names = [name for i in job_ids for name in (keys.followers(i), keys.job(i))]
            await self.shard.run("follow", names, [self.replica, for_ms, self.ttl_ms])
