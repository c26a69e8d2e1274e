"""Which jobs may be why lanes fail: remembered with the job, so that it outlives them."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from scheduler_svc.queue.codec import decode_count
from scheduler_svc.queue.ending import MAX_MESSAGE_CHARS, Ending
from scheduler_svc.queue.lease import Lease
from scheduler_svc.queue.shard import Shard

# Of those that were alone in two lanes that failed: they run nowhere any more.
GUILTY_STRIKES = 4
_MAX_SWEPT = 256

log = logging.getLogger(__name__)


class Suspicion:
    """Strikes of one shard's jobs; the script "strike" says what they count."""

    def __init__(self, shard: Shard, ending: Ending) -> None:
        self._shard = shard
        self._ending = ending

    async def strike(self, lease: Lease, job_ids: Sequence[str], problem: str) -> int:
        """Blames the jobs that are claimed under the lease; how many it was."""
        keys = self._shard.keys
        answer = await self._shard.run(
            "strike",
            [
                keys.lease(lease.worker_id),
                keys.claims(lease.worker_id),
                keys.suspects,
                *map(keys.job, job_ids),
            ],
            [lease.epoch, problem[:MAX_MESSAGE_CHARS], *job_ids],
        )
        return int(lease.checked(answer))

    async def absolve(self, job_ids: Sequence[str]) -> None:
        """Suspects them no longer."""
        keys = self._shard.keys
        await self._shard.run("absolve", [keys.suspects, *map(keys.job, job_ids)], job_ids)

    async def sweep(self) -> None:
        """Ends the guilty, and forgets suspects that have ended."""
        keys, link = self._shard.keys, self._shard.link
        ids = [i.decode() for i in await link.call("ZREVRANGE", keys.suspects, 0, _MAX_SWEPT - 1)]
        fields = ("n", "ended", "strikes", "problem")
        records = await link.pipeline([("HMGET", keys.job(job_id), *fields) for job_id in ids])
        for job_id, (n, ended, strikes, problem) in zip(ids, records, strict=True):
            if n and not ended and decode_count(strikes) < GUILTY_STRIKES:
                continue
            if n and not ended:
                log.error("job %s broke two lanes in which it was alone, and ends", job_id)
                said = (problem or b"").decode(errors="replace")
                await self._ending.fail(job_id, f"it can't be run: {said}")
            await self.absolve([job_id])
