"""The jobs that wait, first in line first, with as much as a picture of the line needs."""

from __future__ import annotations

from dataclasses import dataclass

from scheduler_svc.queue.shard import Shard


@dataclass(frozen=True, slots=True)
class WaitingJob:
    """One of them; it arrived at ``arrival_s`` by Redis's clock."""

    job_id: str
    tenant: str
    priority: int
    arrival_s: float


async def read_line(shard: Shard, max_jobs: int) -> list[WaitingJob]:
    """At most so many, in the order in which they are due; without those that leave meanwhile."""
    keys, link = shard.keys, shard.link
    ids = [job_id.decode() for job_id in await link.call("ZRANGE", keys.queue, 0, max_jobs - 1)]
    records = await link.records(list(map(keys.job, ids)), "tenant", "priority", "arrival")
    return [
        WaitingJob(job_id, (tenant or b"").decode(errors="replace"), _priority(priority), _time(at))
        for job_id, (tenant, priority, at) in zip(ids, records, strict=True)
        if at is not None
    ]


def _priority(text: bytes | None) -> int:
    """Whoever wrote it, a priority that can't be read hides no job."""
    try:
        return int(text or 0)
    except ValueError:
        return 0


def _time(text: bytes) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
