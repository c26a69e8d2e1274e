"""Which schedulers live, and which workers each of them could drive."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from scheduler_svc.queue.shard import Shard
from scheduler_svc.queue.worker_records import live_workers


@dataclass(frozen=True, slots=True)
class Fleet:
    """What every scheduler knows of all of them.

    ``reaches``: for each scheduler that lives, the workers that answer it and that it could
    drive. ``holders``: who has the lease of each worker that is driven.
    """

    reaches: Mapping[str, frozenset[str]]
    holders: Mapping[str, str]


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
            scheduler.decode(): _reach(workers)
            for scheduler, workers in zip(answer[::2], answer[1::2], strict=True)
        }
        workers = await live_workers(self._shard)
        return Fleet(reaches, {worker.worker_id: worker.holder for worker in workers})

    async def depart(self, holder: str) -> None:
        keys = self._shard.keys
        await self._shard.run("depart", [keys.schedulers, keys.reaches], [holder])


def _reach(text: bytes) -> frozenset[str]:
    """What a scheduler says that it reaches: nothing, where it can't be read."""
    try:
        workers = json.loads(text)
    except ValueError:
        return frozenset()
    is_list = isinstance(workers, list)
    return (
        frozenset(worker for worker in workers if isinstance(worker, str))
        if is_list
        else frozenset()
    )
