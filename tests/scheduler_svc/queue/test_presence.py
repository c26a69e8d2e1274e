"""Who follows the jobs that end when nobody does, as all replicas know it."""

from __future__ import annotations

from pathlib import Path

from redis import Redis

from scheduler_svc.queue import EmbeddedRedis, JobQueue
from stepserve.protocol.job import Finish
from tests.scheduler_svc.queue.build import lease_on, running

LEFT = Finish("cancelled", "its client went away")


async def test_a_full_redis_knows_who_follows(tmp_path: Path) -> None:
    with EmbeddedRedis.start(tmp_path) as server, Redis.from_url(server.url) as client:
        async with JobQueue(server.url, "model") as queue:
            job_id = await running(queue, await lease_on(queue))
            client.config_set("maxmemory", 1)
            here, there = queue.presence("here", 60_000), queue.presence("there", 60_000)
            await there.follow([job_id])
            assert not await here.cancel(job_id, LEFT), "it is followed there"
            await there.leave(job_id, 0)
            assert await here.cancel(job_id, LEFT)
