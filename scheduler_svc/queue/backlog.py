"""How much work Redis holds, and for whom: read for those who scale by it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from scheduler_svc.queue.shard import Shard
from scheduler_svc.queue.worker_records import milliseconds

# Jobs of one look: some tenths of a millisecond of Redis.
SLICE = 256


@dataclass(frozen=True, slots=True)
class Backlog:
    """As of one moment, ``now_s`` by Redis's clock (seconds since the epoch).

    ``num_claimed``: jobs that lanes hold. ``num_suspects``: jobs that were there when a lane
    failed. ``num_stranded``: waiting jobs that some worker could not run. ``num_workers``: those
    with a lease that is good.
    """

    now_s: float
    num_queued: int
    num_claimed: int
    num_ended: int
    num_suspects: int
    num_stranded: int
    num_workers: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """A tenant's jobs that wait, and when the first of them arrived by Redis's clock."""

    num_jobs: int
    oldest_s: float


class BacklogReader:
    """Reads one shard; changes nothing."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard

    async def read(self) -> Backlog:
        link, keys = self._shard.link, self._shard.keys
        counted = (keys.queue, keys.ended, keys.suspects, keys.stranded)
        ask_workers = ("ZRANGE", keys.workers, 0, -1, "WITHSCORES")
        time, workers, *counts = await link.pipeline(
            [("TIME",), ask_workers, *(("ZCARD", key) for key in counted)]
        )
        claims = [("ZCARD", keys.claims(worker.decode())) for worker in workers[::2]]
        num_claimed = sum(await link.pipeline(claims)) if claims else 0
        num_queued, num_ended, num_suspects, num_stranded = counts
        now_ms = milliseconds(time)
        return Backlog(
            now_s=now_ms / 1000,
            num_queued=num_queued,
            num_claimed=num_claimed,
            num_ended=num_ended,
            num_suspects=num_suspects,
            num_stranded=num_stranded,
            num_workers=sum(float(expires_ms) > now_ms for expires_ms in workers[1::2]),
        )

    async def by_tenant(self, max_jobs: int) -> Mapping[str, Waiting]:
        """Of the first ``max_jobs`` in line. A job that moves meanwhile may be missed."""
        found: defaultdict[str, list[Waiting]] = defaultdict(list)
        for begin in range(0, max_jobs, SLICE):
            ids = await self._ids(begin, min(begin + SLICE, max_jobs))
            if ids:
                for tenant, waiting in (await self._slice(ids)).items():
                    found[tenant].append(waiting)
            if len(ids) < SLICE:
                break
            await asyncio.sleep(0)
        return {tenant: _together(parts) for tenant, parts in found.items()}

    async def _ids(self, begin: int, end: int) -> list[str]:
        link, keys = self._shard.link, self._shard.keys
        return [i.decode() for i in await link.call("ZRANGE", keys.queue, begin, end - 1)]

    async def _slice(self, ids: list[str]) -> Mapping[str, Waiting]:
        keys = self._shard.keys
        answer = await self._shard.run("waiting", [keys.queue, *map(keys.job, ids)], ids)
        triples = zip(answer[::3], answer[1::3], answer[2::3], strict=True)
        return {
            # Whoever wrote it, a name or a time that can't be read stops nobody.
            tenant.decode(errors="replace"): Waiting(int(count), float(arrival or 0))
            for tenant, count, arrival in triples
        }


def _together(parts: list[Waiting]) -> Waiting:
    return Waiting(sum(p.num_jobs for p in parts), min(p.oldest_s for p in parts))
