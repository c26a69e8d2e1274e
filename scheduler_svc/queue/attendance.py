"""Which schedulers live, and which workers each of them could drive."""

from __future__ import annotations

import json
from collections.abc import Collection

from scheduler_svc.fleet.owners import Fleet
from scheduler_svc.queue.leasing import live_workers
from scheduler_svc.queue.shard import Shard


class Attendance:
    """The schedulers of one shard, as they tell of themselves."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard

    async def attend(self, holder: str, ttl_ms: int, reach: Collection[str]) -> Fleet:
        keys = self._shard.keys
        answer = await self._shard.run(
            "attend", [keys.schedulers, keys.reaches], [holder, ttl_ms, json.dumps(sorted(reach))]
        )
        reaches = {
            scheduler.decode(): frozenset(json.loads(workers))
            for scheduler, workers in zip(answer[::2], answer[1::2], strict=True)
        }
        workers = await live_workers(self._shard)
        return Fleet(reaches, {worker.worker_id: worker.holder for worker in workers})

    async def depart(self, holder: str) -> None:
        keys = self._shard.keys
        await self._shard.run("depart", [keys.schedulers, keys.reaches], [holder])
