"""Taking, keeping and giving up the right to drive a worker."""

from __future__ import annotations

import json
from collections.abc import Mapping

from scheduler_svc.queue.lease import Lease, Renewal, WorkerRecord
from scheduler_svc.queue.link import Command
from scheduler_svc.queue.shard import Shard

_RECORD_FIELDS = ("holder", "epoch", "info", "step_us", "expires", "ttl")


class Leasing:
    """The leases of one shard. A lease that is taken over raises the epoch: that is the fence."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard

    async def acquire(
        self, worker_id: str, holder: str, ttl_ms: int, info: Mapping[str, str]
    ) -> Lease | None:
        if not worker_id or not holder:
            raise ValueError("a lease needs a worker and a holder")
        keys = self._shard.keys
        epoch = await self._shard.run(
            "acquire",
            [
                keys.lease(worker_id),
                keys.claims(worker_id),
                keys.queue,
                keys.workers,
                keys.bell,
                keys.rings,
                keys.order,
                keys.epoch,
            ],
            [worker_id, holder, ttl_ms, json.dumps(dict(info))],
            durable=True,
        )
        return None if epoch is None else Lease(worker_id, holder, int(epoch), ttl_ms)

    async def renew(self, lease: Lease, step_us: int = 0) -> Renewal:
        keys = self._shard.keys
        answer = await self._shard.run(
            "renew",
            [keys.lease(lease.worker_id), keys.workers, keys.order],
            [lease.worker_id, lease.epoch, lease.ttl_ms, step_us],
        )
        return Renewal(is_ours=answer is not None, is_in_order=answer == 1)

    async def release(self, lease: Lease) -> bool:
        return await self._vacate(lease.worker_id, str(lease.epoch), 0)

    async def give_up(self, worker_id: str) -> bool:
        """Frees a lease that expired longer ago than the grace; False where it has not."""
        grace_ms = int(self._shard.limits.lease_grace_s * 1000)
        return await self._vacate(worker_id, "", grace_ms)

    async def _vacate(self, worker_id: str, epoch: str, grace_ms: int) -> bool:
        keys = self._shard.keys
        answer = await self._shard.run(
            "vacate",
            [
                keys.lease(worker_id),
                keys.claims(worker_id),
                keys.queue,
                keys.workers,
                keys.bell,
                keys.rings,
                keys.epoch,
            ],
            [worker_id, epoch, grace_ms],
        )
        return answer is not None


async def live_workers(shard: Shard) -> list[WorkerRecord]:
    """The workers whose leases are good now."""
    link, keys = shard.link, shard.keys
    names = [worker_id.decode() for worker_id in await link.call("ZRANGE", keys.workers, 0, -1)]
    asked: list[Command] = [("HMGET", keys.lease(name), *_RECORD_FIELDS) for name in names]
    # The time last: none of these was renewed after it.
    *leases, (seconds, microseconds) = await link.pipeline([*asked, ("TIME",)])
    now_ms = seconds * 1e3 + microseconds / 1e3
    return [
        WorkerRecord(
            worker_id=name,
            holder=holder.decode(),
            epoch=int(epoch),
            expires_s=int(expires) / 1000,
            info=json.loads(info),
            step_us=int(step_us or 0),
        )
        for name, (holder, epoch, info, step_us, expires, ttl) in zip(names, leases, strict=True)
        if holder and is_good(int(expires) - now_ms, ttl)
    ]


def is_good(left_ms: float, ttl: bytes | None) -> bool:
    """Whether a lease that expires in ``left_ms`` is good now, as the scripts have it.

    Further ahead than its time to live (None: of a version that wrote none) no living one
    expires.
    """
    return left_ms > 0 and (ttl is None or left_ms <= int(ttl) + 1)
