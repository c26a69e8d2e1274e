"""How long jobs that have ended are kept: a time, a number, and a share of the memory."""

from __future__ import annotations

from collections.abc import Sequence

from scheduler_svc.queue.codec import decode_num_outputs
from scheduler_svc.queue.limits import FULL_SHARE
from scheduler_svc.queue.looks import Looks
from scheduler_svc.queue.resp import Argument
from scheduler_svc.queue.shard import Shard

_PAGE = 256
_MAX_PAGES = 16
# Memory gets short: who ended less long ago than this is spared, for its client may be about
# to read what it got; but not once it is full.
_SPARED_S = 10.0
# A sweep begins with a look.
_LOOK_AGE_S = 1.0


class Retention:
    """Forgets ended jobs of one shard, the oldest first. Jobs that go on are never touched.

    Memory is measured, by the server itself, not computed: once for each job, after it has
    ended.
    """

    def __init__(self, shard: Shard, looks: Looks) -> None:
        self._shard = shard
        self._looks = looks

    async def sweep(self, now_s: float) -> int:
        """Forget what is beyond the bounds; how many jobs it was. Bounded."""
        keys, limits = self._shard.keys, self._shard.limits
        num_forgotten = await self._forget_until(now_s - limits.retention_s)
        num_ended, num_bytes = await self._shard.link.pipeline(
            [("ZCARD", keys.ended), ("GET", keys.ended_bytes)]
        )
        num_forgotten += await self._forget_oldest(num_ended - limits.max_ended_jobs)
        num_forgotten += await self._forget_bytes(int(num_bytes or 0) - limits.max_ended_bytes)
        num_forgotten += await self._ease(now_s)
        await self._weigh()
        return num_forgotten

    async def _forget_until(self, until_s: float) -> int:
        num_forgotten = 0
        for _ in range(_MAX_PAGES):
            due = await self._shard.due(self._shard.keys.ended, until_s, _PAGE)
            num_forgotten += await self._forget_all(due)
            if len(due) < _PAGE:
                break
        return num_forgotten

    async def _forget_oldest(self, count: int) -> int:
        """Forget so many, of which other processes may forget some."""
        page = await self._oldest(min(count, _PAGE * _MAX_PAGES))
        return await self._forget_all(page)

    async def _forget_bytes(self, excess: int) -> int:
        """Forget jobs until so many bytes are free, or another process does it too."""
        num_forgotten = 0
        for job_id in await self._oldest(_PAGE if excess > 0 else 0):
            num_bytes = await self.forget(job_id)
            if num_bytes is None:
                break
            excess, num_forgotten = excess - num_bytes, num_forgotten + 1
            if excess <= 0:
                break
        return num_forgotten

    async def _ease(self, now_s: float) -> int:
        """Forget jobs while Redis has less memory left than is wanted for those that go on."""
        num_forgotten, look_age_s = 0, _LOOK_AGE_S
        for _ in range(_MAX_PAGES):
            share = (await self._looks.memory(look_age_s)).share
            if share <= self._shard.limits.ended_memory_share:
                break
            until_s = now_s if share >= FULL_SHARE else now_s - _SPARED_S
            page = await self._shard.due(self._shard.keys.ended, until_s, _PAGE)
            num_forgotten += await self._forget_all(page)
            if not page:
                break
            look_age_s = 0.0  # There is more room now.
        return num_forgotten

    async def _oldest(self, count: int) -> list[str]:
        if count <= 0:
            return []
        page = await self._shard.link.call("ZRANGE", self._shard.keys.ended, 0, count - 1)
        return [job_id.decode() for job_id in page]

    async def _forget_all(self, job_ids: Sequence[str]) -> int:
        return sum([await self.forget(job_id) is not None for job_id in job_ids])

    async def forget(self, job_id: str, durable: bool = False) -> int | None:
        """Drop everything of a job that has ended; its bytes, as far as they were measured.

        None where another process has done it, or it has not ended.
        """
        keys = self._shard.keys
        [names] = await self._belongings([job_id])
        answer = await self._shard.run(
            "forget",
            [names[0], keys.ended, keys.jobs, keys.ended_bytes, *names[1:]],
            [job_id],
            durable=durable,
        )
        return None if answer is None else int(answer)

    async def _weigh(self) -> None:
        """Measure what has ended since the last time."""
        keys, link = self._shard.keys, self._shard.link
        for _ in range(_MAX_PAGES):
            page = [i.decode() for i in await link.call("LRANGE", keys.unweighed, 0, _PAGE - 1)]
            if page:
                belongings = await self._belongings(page)
                names = [keys.unweighed, keys.ended_bytes, *(n for own in belongings for n in own)]
                args: list[Argument] = []
                for job_id, own in zip(page, belongings, strict=True):
                    args += (job_id, len(own))
                await self._shard.run("weigh", names, args)
            if len(page) < _PAGE:
                break

    async def _belongings(self, job_ids: Sequence[str]) -> list[list[str]]:
        """The names of every job's own keys, that of its hash first."""
        keys = self._shard.keys
        records = await self._shard.link.records(list(map(keys.job, job_ids)), "n", "idem")
        found = []
        for job_id, (n, digest) in zip(job_ids, records, strict=True):
            names = [keys.job(job_id)]
            for index in range(decode_num_outputs(n)):
                names += (keys.log(job_id, index), keys.lp(job_id, index))
            found.append(names + ([keys.idem(digest.decode())] if digest else []))
        return found
