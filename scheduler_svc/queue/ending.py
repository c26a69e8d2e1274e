"""What ends jobs from outside their lane, and what clears up after them."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from scheduler_svc.queue.codec import RECORD_ERRORS, decode_num_outputs, encode_finish
from scheduler_svc.queue.leasing import Leasing
from scheduler_svc.queue.looks import Looks
from scheduler_svc.queue.ranking import holder_of
from scheduler_svc.queue.retention import Retention
from scheduler_svc.queue.shard import Shard
from stepserve.protocol.errors import Unavailable
from stepserve.protocol.job import DEADLINE_PASSED, Finish

log = logging.getLogger(__name__)

_MAX_SWEPT = 256
_MAX_ROUNDS = 16
_MAX_ATTEMPTS = 10
# A time that lies less ahead is not worth a look: it will have come by the next one.
_MAX_AHEAD_S = 1.0
MAX_MESSAGE_CHARS = 300


@dataclass(frozen=True, slots=True)
class Sweep:
    """What one sweep did."""

    num_overdue: int
    num_forgotten: int
    num_given_up: int
    num_settled: int


@dataclass(frozen=True, slots=True)
class Unless:
    """Not if other replicas than this one say that they follow the job; see Presence."""

    replica: str
    ttl_ms: int


async def _settled(settle: Callable[[str], Awaitable[bool]], member: str) -> bool:
    """Whether it was; what is wrong with one must not keep the others from being swept."""
    try:
        return await settle(member)
    except RECORD_ERRORS as error:
        log.error("%s can't be swept: %s", member, error)
        return False


class Ending:
    """Cancels jobs and sweeps a shard. Safe to run in any number of processes."""

    def __init__(self, shard: Shard, leasing: Leasing, looks: Looks) -> None:
        self._shard = shard
        self._leasing = leasing
        self._retention = Retention(shard, looks)
        self._num_examined = 0

    async def end(self, job_id: str, finish: Finish, unless: Unless | None = None) -> bool:
        """Ends every output that has not ended; False where the job had ended or is unknown.

        Nor with ``unless``, where that holds.
        """
        keys = self._shard.keys
        for _ in range(_MAX_ATTEMPTS):
            claim, n = await self._shard.link.call("HMGET", keys.job(job_id), "claim", "n")
            worker_id = holder_of(claim or b"")
            answer = await self._shard.run(
                "cancel",
                [
                    keys.job(job_id),
                    keys.queue,
                    keys.claims(worker_id),
                    keys.deadlines,
                    keys.ended,
                    keys.bell,
                    keys.rings,
                    keys.counters,
                    keys.unweighed,
                    keys.followers(job_id),
                    keys.quotas,
                    *(keys.log(job_id, index) for index in range(decode_num_outputs(n))),
                ],
                [
                    job_id,
                    claim or b"",
                    encode_finish(finish),
                    *((unless.replica, unless.ttl_ms) if unless else ()),
                ],
                durable=True,
            )
            if answer != b"moved":
                return bool(answer == 1)
        raise Unavailable("the job changes hands too often to be ended now")

    async def fail(self, job_id: str, problem: str) -> bool:
        """Ends a job with reason "error", and what is wrong with it in one line."""
        message = " ".join(problem.split())[:MAX_MESSAGE_CHARS]
        return await self.end(job_id, Finish("error", message))

    async def forget(self, job_id: str) -> bool:
        """Drops all that is kept of a job that has ended. False where it has not, or is gone."""
        return await self._retention.forget(job_id, durable=True) is not None

    async def sweep(self) -> Sweep:
        """Ends overdue jobs, forgets ended ones beyond their bounds, frees dead leases.

        First brings back what lies ahead because the clock has gone back.
        """
        now_s = await self._shard.now_s()
        keys, limits = self._shard.keys, self._shard.limits
        expired_ms = (now_s - limits.lease_grace_s) * 1000
        num_settled = await self._settle(now_s)
        # First of all what makes room: the rest needs some.
        num_forgotten = await self._retention.sweep(now_s)
        return Sweep(
            await self._all_due(keys.deadlines, now_s, self._end_overdue),
            num_forgotten,
            await self._all_due(keys.workers, expired_ms, self._leasing.give_up)
            + await self._give_up_implausible((now_s + limits.lease_grace_s) * 1000),
            num_settled,
        )

    async def _settle(self, now_s: float) -> int:
        """Bring back times that were written before the clock went back; how many it was.

        What ended can't lie ahead at all. Deadlines may, so these are examined a page each
        sweep, one after another.
        """
        keys, num_settled = self._shard.keys, 0
        for _ in range(_MAX_ROUNDS):
            ahead = await self._due_after(keys.ended, now_s + _MAX_AHEAD_S)
            num_settled += await self._settle_jobs(ahead)
            if len(ahead) < _MAX_SWEPT:
                break
        last = self._num_examined + _MAX_SWEPT - 1
        page = await self._shard.link.call("ZRANGE", keys.deadlines, self._num_examined, last)
        self._num_examined = last + 1 if len(page) == _MAX_SWEPT else 0
        return num_settled + await self._settle_jobs([member.decode() for member in page])

    async def _settle_jobs(self, job_ids: Sequence[str]) -> int:
        if not job_ids:
            return 0
        keys = self._shard.keys
        names = [keys.jobs, keys.deadlines, keys.ended, *map(keys.job, job_ids)]
        return int(await self._shard.run("settle", names, job_ids))

    async def _give_up_implausible(self, latest_ms: float) -> int:
        """Look at leases that expire later than ours would; how many of them were freed."""
        workers = await self._due_after(self._shard.keys.workers, latest_ms)
        return sum([await _settled(self._leasing.give_up, worker) for worker in workers])

    async def _due_after(self, index: str, since: float) -> list[str]:
        return await self._shard.due(index, math.inf, _MAX_SWEPT, f"({since:.6f}")

    async def _all_due(
        self, index: str, until: float, settle: Callable[[str], Awaitable[bool]]
    ) -> int:
        """Settles what is due in an index, in rounds while they are full; how many it was."""
        num_settled = 0
        for _ in range(_MAX_ROUNDS):
            due = await self._shard.due(index, until, _MAX_SWEPT)
            num_settled += sum([await _settled(settle, member) for member in due])
            if len(due) < _MAX_SWEPT:
                break
        return num_settled

    async def _end_overdue(self, job_id: str) -> bool:
        return await self.end(job_id, DEADLINE_PASSED)
