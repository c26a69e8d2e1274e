"""Queued jobs that no worker which is there now can run, and what becomes of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scheduler_svc.queue.codec import decode_count, decode_num_outputs
from scheduler_svc.queue.ending import Ending
from scheduler_svc.queue.lease import WorkerRecord
from scheduler_svc.queue.shard import Shard
from scheduler_svc.queue.worker_records import live_workers

_MAX_SWEPT = 256
_FINGERPRINT_CHARS = 12

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why no worker can run a job; ``is_model``: its output is another model's."""

    problem: str
    is_model: bool


def obstacle(
    fingerprint: bytes | None, need: bytes | None, workers: Sequence[WorkerRecord]
) -> Obstacle | None:
    """Return why none of the workers can run a job, None where one can, or none is there.

    ``fingerprint`` is that of the model which the job's output is from, ``need`` how many
    tokens it takes room for; a job of an earlier version has none. So have workers.
    """
    ours = (fingerprint or b"").decode(errors="replace")
    num_needed = decode_count(need)
    alike = [w for w in workers if not ours or w.info.get("fingerprint", ours) == ours]
    if not alike and workers:
        name = ours[:_FINGERPRINT_CHARS]
        problem = f"its output is from a model that no worker has now (fingerprint {name})"
        return Obstacle(problem, is_model=True)
    limits = [int(w.info.get("max_context", num_needed)) for w in alike]
    if limits and max(limits) < num_needed:
        problem = f"it needs room for {num_needed} tokens, the workers' limit is {max(limits)}"
        return Obstacle(problem, is_model=False)
    return None


class Stranding:
    """Looks after the jobs that lanes passed over for good: says so, and acts after a grace."""

    def __init__(self, shard: Shard, ending: Ending) -> None:
        self._shard = shard
        self._ending = ending
        self._told: set[str] = set()

    async def sweep(self) -> None:
        """Warns of stranded jobs once each, and ends them or lets them begin anew in time."""
        shard, keys = self._shard, self._shard.keys
        stranded = await shard.link.call("ZRANGE", keys.stranded, 0, _MAX_SWEPT - 1, "WITHSCORES")
        ids = [job_id.decode() for job_id in stranded[::2]]
        self._told &= set(ids)
        if not ids:
            return
        workers = await live_workers(shard)
        now_s = await shard.now_s()
        ranks = await shard.link.call("ZMSCORE", keys.queue, *ids)
        records = await shard.link.records(list(map(keys.job, ids)), "fingerprint", "need")
        for job_id, since, rank, record in zip(ids, stranded[1::2], ranks, records, strict=True):
            found = obstacle(record[0], record[1], workers) if rank is not None else None
            if found is None:
                await shard.link.call("ZREM", keys.stranded, job_id)
            elif float(since) > now_s + 1:  # the clock went back
                await shard.link.call("ZADD", keys.stranded, "XX", now_s, job_id)
            else:
                await self._look_after(job_id, found, record, now_s - float(since))

    async def _look_after(
        self, job_id: str, found: Obstacle, record: Sequence[Any], waited_s: float
    ) -> None:
        limits = self._shard.limits
        action = limits.on_model_change if found.is_model else "end"
        if job_id not in self._told:
            self._told.add(job_id)
            plan = {"wait": "it waits", "end": "it ends", "restart": "it begins anew"}[action]
            when = "" if action == "wait" else f" in {limits.stranded_grace_s:g} s"
            log.warning("job %s: %s; %s%s unless one comes", job_id, found.problem, plan, when)
        if action == "wait" or waited_s < limits.stranded_grace_s:
            return
        if action == "end":
            await self._ending.fail(job_id, found.problem)
        else:
            await self._restart(job_id, record[0])

    async def _restart(self, job_id: str, fingerprint: bytes) -> None:
        """Drops the output, so that any worker may run the job."""
        keys = self._shard.keys
        n = decode_num_outputs(await self._shard.link.call("HGET", keys.job(job_id), "n"))
        logs = [name(job_id, i) for i in range(n) for name in (keys.log, keys.lp)]
        await self._shard.run(
            "restart",
            [
                keys.job(job_id),
                keys.queue,
                keys.stranded,
                keys.bell,
                keys.rings,
                keys.counters,
                keys.quotas,
                *logs,
            ],
            [job_id, fingerprint],
            durable=True,
        )


async def notes_of(shard: Shard, records: Sequence[Sequence[Any]]) -> list[str]:
    """What keeps queued jobs from being run, "" where nothing does but their turn.

    Of each (waits, fingerprint, need) are asked.
    """
    if not any(waits for waits, *_ in records):
        return [""] * len(records)
    workers = await live_workers(shard)
    found = [obstacle(of, need, workers) if waits else None for waits, of, need in records]
    return [each.problem if each is not None else "" for each in found]
