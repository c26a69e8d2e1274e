"""How many of the waiting jobs a lane takes, so that lanes come to hold equally many."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from scheduler_svc.queue.lease import Lease, WorkerRecord
from scheduler_svc.queue.shard import Shard
from scheduler_svc.queue.worker_records import ask, milliseconds, record

# Who holds more than others waits so long for them to claim first.
YIELD_S = 0.05


def num_to_level(mine: int, others: Sequence[int], num_waiting: int) -> int:
    """Return how many of the waiting jobs bring us to the level that all come to.

    As water fills: ``mine`` and ``others`` are the numbers of jobs that lanes hold, the
    lowest are filled first. 0 where enough others hold less.
    """
    loads = sorted([mine, *others])
    level, width = loads[0], 1
    while num_waiting > 0:
        while width < len(loads) and loads[width] == level:
            width += 1
        rise = -(-num_waiting // width)
        if width < len(loads):
            rise = min(rise, loads[width] - level)
        level += rise
        num_waiting -= rise * width
    return max(0, level - mine)


class Balance:
    """What one process's lanes ask before they claim."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard

    async def allowance(self, lease: Lease, max_jobs: int) -> int:
        """How many of ``max_jobs`` to claim now, 1 or more.

        Where other lanes hold less they have a moment to claim first; then whatever is left
        may be taken, since they may have no room or another model.
        """
        link, keys = self._shard.link, self._shard.keys
        ids, num_queued, num_stranded = await link.pipeline(
            [("ZRANGE", keys.workers, 0, -1), ("ZCARD", keys.queue), ("ZCARD", keys.stranded)]
        )
        # What no lane can run counts for nobody.
        num_waiting = max(0, num_queued - num_stranded)
        others = [name for name in map(bytes.decode, ids) if name != lease.worker_id]
        if not others or num_waiting >= max_jobs * (1 + len(others)):
            return max_jobs
        # The time last: no lease was renewed after it.
        *answers, time = await link.each(
            [
                *(("ZCARD", keys.claims(name)) for name in [lease.worker_id, *others]),
                *(ask(self._shard, name) for name in others),
                ("TIME",),
            ]
        )
        mine, *loads = answers[: len(ids)]
        leases = zip(others, answers[len(ids) :], strict=True)
        workers = [record(self._shard, *each, milliseconds(time)) for each in leases]
        with_room = [
            load
            for load, worker in zip(loads, workers, strict=True)
            if worker is not None and load < _num_places(worker)
        ]
        num_ours = num_to_level(mine, with_room, max(1, num_waiting))
        if not num_ours and num_waiting:
            await asyncio.sleep(YIELD_S)
            return max_jobs
        return max(1, min(max_jobs, num_ours))


def _num_places(worker: WorkerRecord) -> float:
    """How many jobs a lane runs at most, as it told when it took its lease."""
    return float(worker.info.get("places", "inf"))
