"""Taking, keeping and giving up the right to drive a worker."""

from __future__ import annotations

import json
from collections.abc import Mapping

from scheduler_svc.queue.lease import Lease, Renewal
from scheduler_svc.queue.shard import Shard


class Leasing:
    """The leases of one shard. A lease that is taken over raises the epoch: that is the fence.

    ``acquire`` with the ``incarnation`` of a worker leaves claimed what was claimed for that.
    """

    def __init__(self, shard: Shard) -> None:
        self._shard = shard

    async def acquire(
        self, worker_id: str, holder: str, ttl_ms: int, info: Mapping[str, str], incarnation: str
    ) -> Lease | None:
        if not worker_id or not holder:
            raise ValueError("a lease needs a worker and a holder")
        keys = self._shard.keys
        answer = await self._shard.run(
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
            [worker_id, holder, ttl_ms, json.dumps(dict(info)), incarnation],
            durable=True,
        )
        if answer is None:
            return None
        epoch, num_claimed = answer
        return Lease(worker_id, holder, int(epoch), ttl_ms, int(num_claimed))

    async def renew(self, lease: Lease, step_us: int = 0, num_used_blocks: int = 0) -> Renewal:
        keys = self._shard.keys
        answer = await self._shard.run(
            "renew",
            [keys.lease(lease.worker_id), keys.workers, keys.order],
            [lease.worker_id, lease.epoch, lease.ttl_ms, step_us, num_used_blocks],
        )
        return Renewal(is_ours=answer is not None, is_in_order=answer == 1)

    async def release(self, lease: Lease) -> bool:
        return await self._vacate(lease.worker_id, str(lease.epoch), 0)

    async def hand_over(self, lease: Lease) -> bool:
        keys = self._shard.keys
        answer = await self._shard.run(
            "hand_over",
            [keys.lease(lease.worker_id), keys.workers, keys.bell, keys.rings, keys.epoch],
            [lease.worker_id, lease.epoch],
        )
        return answer is not None

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
