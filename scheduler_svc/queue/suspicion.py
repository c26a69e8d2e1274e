"""Which jobs may be why workers crash: remembered with the job, so that it outlives all lanes."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from scheduler_svc.queue.codec import RECORD_ERRORS, decode_count
from scheduler_svc.queue.ending import MAX_MESSAGE_CHARS, Ending
from scheduler_svc.queue.lease import Lease
from scheduler_svc.queue.recent import RecentJobs
from scheduler_svc.queue.shard import Shard
from scheduler_svc.queue.worker_records import milliseconds
from scheduler_svc.suspects import GUILTY

_MAX_SWEPT = 256
# More would make a trial no shorter: a worker runs no more at a time.
_MAX_WAITING = 4096

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Accused:
    """A job that was there when a worker crashed or was lost.

    ``num_tokens``: of its outputs, as far as is known. Where it has ``num_more`` of them the
    next time, it got past the place where it was.
    """

    job_id: str
    num_tokens: int = 0
    num_more: int = 1


@dataclass(frozen=True, slots=True)
class Stage:
    """Where suspects can be tried now. ``is_ours``: at our worker, which holds nothing.

    ``is_wanted``: nowhere, since every worker holds something, and ours holds least.
    """

    is_ours: bool
    is_wanted: bool


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What one process's lanes have come to: crashes, accusations of jobs by them, convictions."""

    num_crashes: int = 0
    num_accused: int = 0
    num_convicted: int = 0


class Suspicion:
    """Strikes of one shard's jobs; ``suspects.py`` says what they count."""

    def __init__(self, shard: Shard, ending: Ending) -> None:
        self._shard = shard
        self._ending = ending
        self._recent = RecentJobs()
        self.verdicts = Verdicts()

    async def strike(
        self, lease: Lease, accused: Sequence[Accused], problem: str, *, has_crashed: bool
    ) -> int:
        """Blames the jobs that are claimed under the lease; how many are suspects by it."""
        keys = self._shard.keys
        worker_id, said = lease.worker_id, problem[:MAX_MESSAGE_CHARS]
        answer = await self._shard.run(
            "strike",
            [
                keys.lease(worker_id),
                keys.claims(worker_id),
                keys.suspects,
                keys.canary,
                *(keys.job(each.job_id) for each in accused),
            ],
            [
                lease.epoch,
                worker_id,
                said,
                int(has_crashed),
                *(part for e in accused for part in (e.job_id, e.num_tokens, e.num_more)),
            ],
            durable=True,
        )
        pairs = lease.checked(answer)
        struck = dict(zip(map(bytes.decode, pairs[::2]), pairs[1::2], strict=True))
        self.verdicts = replace(
            self.verdicts,
            num_crashes=self.verdicts.num_crashes + has_crashed,
            num_accused=self.verdicts.num_accused + len(struck),
        )
        for job_id, strikes in struck.items():
            names = [keys.suspects, keys.job(job_id)]
            self._recent.add(job_id, names, [job_id, strikes, said])
        for job_id, strikes in struck.items():
            if strikes == GUILTY:
                await self._convict(job_id, said)
        return len(struck)

    async def remind(self, job_id: str = "") -> None:
        """Strike again whom Redis may have lost the last strikes of; or this one of them.

        Not who was cleared since, by whichever process. One whose record is broken keeps no other
        from it.
        """
        for known_id, call in self._recent.all():
            if job_id not in ("", known_id):
                continue
            args = [*call.args, time.monotonic() - call.stored_s]
            try:
                await self._shard.run("remind", call.names, args, durable=True)
            except RECORD_ERRORS as error:
                log.error("job %s can't be struck again: %s", known_id, error)

    def age(self, now_s: float) -> None:
        """What was struck some time before ``now_s`` (monotonic) is kept: it may be forgotten."""
        self._recent.expire(now_s)

    async def absolve(self, job_ids: Sequence[str]) -> None:
        """Suspects them no longer."""
        for job_id in job_ids:
            self._recent.drop(job_id)
        keys = self._shard.keys
        await self._shard.run("absolve", [keys.suspects, *map(keys.job, job_ids)], job_ids)

    async def retire(self, lease: Lease) -> None:
        """Nobody is tried under the lease any more."""
        await self._shard.run("retire", [self._shard.keys.canary], [lease.worker_id])

    async def waiting(self) -> dict[str, int]:
        """Strikes of those that wait and that some lane could run, first in line first, by id."""
        link, keys = self._shard.link, self._shard.keys
        answer = await link.call("ZREVRANGE", keys.suspects, 0, _MAX_WAITING - 1, "WITHSCORES")
        if not answer:
            return {}
        ids, strikes = answer[::2], map(int, map(float, answer[1::2]))
        ranks, stranded = await link.pipeline(
            [("ZMSCORE", keys.queue, *ids), ("ZMSCORE", keys.stranded, *ids)]
        )
        known = sorted(
            (float(rank), job_id.decode(), count)
            for job_id, count, rank, since in zip(ids, strikes, ranks, stranded, strict=True)
            if rank is not None and since is None and count < GUILTY
        )
        return {job_id: count for _, job_id, count in known}

    async def stage(self, lease: Lease) -> Stage:
        """Where suspects that wait could be tried now."""
        link, keys = self._shard.link, self._shard.keys
        canary, workers, time = await link.pipeline(
            [("GET", keys.canary), ("ZRANGE", keys.workers, 0, -1, "WITHSCORES"), ("TIME",)]
        )
        now_ms = milliseconds(time)
        pairs = zip(workers[::2], workers[1::2], strict=True)
        names = {name.decode() for name, until_ms in pairs if float(until_ms) > now_ms}
        if canary is not None and canary.decode() in names - {lease.worker_id}:
            return Stage(is_ours=False, is_wanted=False)
        names |= {lease.worker_id}
        ordered = sorted(names)
        counts = await link.pipeline([("ZCARD", keys.claims(name)) for name in ordered])
        fewest = min(zip(counts, ordered, strict=True))
        is_ours = counts[ordered.index(lease.worker_id)] == 0
        return Stage(is_ours, is_wanted=fewest[0] > 0 and fewest[1] == lease.worker_id)

    async def sweep(self) -> None:
        """Ends the guilty, and forgets suspects that have ended."""
        keys, link = self._shard.keys, self._shard.link
        ids = [i.decode() for i in await link.call("ZREVRANGE", keys.suspects, 0, _MAX_SWEPT - 1)]
        names = list(map(keys.job, ids))
        records = await link.records(names, "n", "ended", "strikes", "problem")
        for job_id, (n, ended, strikes, problem) in zip(ids, records, strict=True):
            if n and not ended and decode_count(strikes) < GUILTY:
                continue
            if n and not ended:
                await self._convict(job_id, (problem or b"").decode(errors="replace"))
            await self.absolve([job_id])

    async def _convict(self, job_id: str, problem: str) -> None:
        log.error("job %s crashed two workers that ran nothing else, and ends", job_id)
        if await self._ending.fail(job_id, f"it can't be run: {problem}"):
            num_convicted = self.verdicts.num_convicted + 1
            self.verdicts = replace(self.verdicts, num_convicted=num_convicted)
