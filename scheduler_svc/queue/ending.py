"""What ends jobs from outside their lane, and what clears up after them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from protos.errors import Unavailable
from protos.job import Finish
from scheduler_svc.queue.codec import RECORD_ERRORS, encode_finish
from scheduler_svc.queue.leasing import Leasing
from scheduler_svc.queue.ranking import holder_of
from scheduler_svc.queue.shard import Shard

log = logging.getLogger(__name__)

_MAX_SWEPT = 256
_MAX_ROUNDS = 16
_MAX_ATTEMPTS = 10
MAX_MESSAGE_CHARS = 300

OVERDUE = Finish("deadline", "the job's deadline has passed")


@dataclass(frozen=True, slots=True)
class Sweep:
    """What one sweep did."""

    num_overdue: int
    num_forgotten: int
    num_given_up: int


async def _settled(settle: Callable[[str], Awaitable[bool]], member: str) -> bool:
    """Whether it was; what is wrong with one must not keep the others from being swept."""
    try:
        return await settle(member)
    except RECORD_ERRORS as error:
        log.error("%s can't be swept: %s", member, error)
        return False


class Ending:
    """Cancels jobs and sweeps a shard. Safe to run in any number of processes."""

    def __init__(self, shard: Shard, leasing: Leasing) -> None:
        self._shard = shard
        self._leasing = leasing

    async def end(self, job_id: str, finish: Finish) -> bool:
        """Ends every output that has not ended; False where the job had ended or is unknown."""
        keys = self._shard.keys
        for _ in range(_MAX_ATTEMPTS):
            claim, n = await self._shard.link.call("HMGET", keys.job(job_id), "claim", "n")
            worker_id = holder_of(claim or b"")
            answer = await self._shard.run(
                "cancel",
                [
                    *(keys.job(job_id), keys.queue, keys.claims(worker_id)),
                    *(keys.deadlines, keys.ended, keys.bell, keys.rings, keys.counters),
                    *(keys.log(job_id, index) for index in range(int(n or 0))),
                ],
                [job_id, claim or b"", encode_finish(finish)],
                durable=True,
            )
            if answer != b"moved":
                return bool(answer == 1)
        raise Unavailable(f"job {job_id} changes hands too often to be ended now")

    async def fail(self, job_id: str, problem: str) -> bool:
        """Ends a job with reason "error", and what is wrong with it in one line."""
        message = " ".join(problem.split())[:MAX_MESSAGE_CHARS]
        return await self.end(job_id, Finish("error", message))

    async def sweep(self) -> Sweep:
        """Ends overdue jobs, forgets ended ones after their retention, frees dead leases."""
        seconds, microseconds = await self._shard.link.call("TIME")
        now_s = seconds + microseconds / 1e6
        keys, limits = self._shard.keys, self._shard.limits
        expired_ms = (now_s - limits.lease_grace_s) * 1000
        return Sweep(
            await self._all_due(keys.deadlines, now_s, self._end_overdue),
            await self._all_due(keys.ended, now_s - limits.retention_s, self._forget),
            await self._all_due(keys.workers, expired_ms, self._leasing.give_up),
        )

    async def _all_due(
        self, index: str, until: float, settle: Callable[[str], Awaitable[bool]]
    ) -> int:
        """Settles what is due in an index, in rounds while they are full; how many it was."""
        num_settled = 0
        for _ in range(_MAX_ROUNDS):
            due = await self._due(index, until)
            num_settled += sum([await _settled(settle, member) for member in due])
            if len(due) < _MAX_SWEPT:
                break
        return num_settled

    async def _end_overdue(self, job_id: str) -> bool:
        return await self.end(job_id, OVERDUE)

    async def _due(self, index: str, until: float) -> list[str]:
        members = await self._shard.link.call(
            "ZRANGEBYSCORE", index, "-inf", f"{until:.6f}", "LIMIT", 0, _MAX_SWEPT
        )
        return [member.decode() for member in members]

    async def _forget(self, job_id: str) -> bool:
        keys = self._shard.keys
        n, digest = await self._shard.link.call("HMGET", keys.job(job_id), "n", "idem")
        belongings = [keys.log(job_id, index) for index in range(int(n or 0))]
        belongings += [keys.lp(job_id, index) for index in range(int(n or 0))]
        if digest:
            belongings.append(keys.idem(digest.decode()))
        answer = await self._shard.run(
            "forget",
            [keys.job(job_id), keys.ended, keys.jobs, *belongings],
            [job_id],
        )
        return bool(answer == 1)
