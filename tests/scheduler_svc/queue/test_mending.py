"""One look at Redis serves all that ask how it is, and whoever mends what it lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis import Redis

from scheduler_svc.queue import Accused, EmbeddedRedis, JobQueue, QueueLimits
from scheduler_svc.queue.keys import Keys
from tests.scheduler_svc.queue.build import FINGERPRINT, lease_on, running, submit


def num_looks(redis: Redis) -> int:
    """How often anybody has asked."""
    return int(redis.info("commandstats").get("cmdstat_info", {"calls": 0})["calls"])


async def test_a_sweep_s_look_tells_how_full_it_is_and_who_answers(
    queue: JobQueue, redis: Redis
) -> None:
    before = num_looks(redis)
    await queue.sweep()
    assert (await queue.memory(60.0)).used_bytes
    assert num_looks(redis) - before == 2, "of the queue, and this one"


async def test_what_a_look_for_the_memory_found_lost_is_stored_again(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    await queue.memory()
    [job_id] = await submit(queue, 1)
    queue._mending._continuity.note({"run_id": "of the server before"})
    redis.delete(keys.job(job_id))
    redis.zrem(keys.queue, job_id)
    redis.zrem(keys.jobs, job_id)
    await queue.memory()
    assert await queue.job(job_id) is None, "a probe does not wait for it"
    assert await queue.may_come_back()
    assert await queue.job(job_id) is not None


async def test_a_full_redis_keeps_nobody_from_sweeping(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What makes room runs, who is blamed is known, and the rest follows when there is some."""
    with EmbeddedRedis.start(tmp_path) as server, Redis.from_url(server.url) as client:
        limits = QueueLimits(retention_s=0.0)
        async with JobQueue(server.url, "model", limits) as queue:
            await queue.sweep()
            lease, keys = await lease_on(queue), Keys("model")
            suspect = await running(queue, lease)
            await queue.strike(lease, [Accused(suspect)], "Boom")
            ended, job_id = await submit(queue, 2)
            await queue.cancel(ended)
            client.hdel(keys.job(suspect), "strikes")
            client.delete(keys.job(job_id), keys.queue)
            client.zrem(keys.jobs, job_id)
            queue._mending._continuity.note({"run_id": "of the server before"})
            client.config_set("maxmemory", 1)
            for _ in range(2):
                await queue.sweep()
                await queue._mending.reconnected()
            assert not client.exists(keys.job(ended)), "that makes room"
            assert client.hget(keys.job(suspect), "strikes") == b"100"
            assert caplog.text.count("can't be stored again until it has room") == 1
            client.config_set("maxmemory", 0)
            await queue.sweep()
            assert await queue.job(job_id) is not None


async def test_a_claimed_job_that_can_not_be_stored_again_is_only_its_own_trouble(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    lease = await lease_on(queue)
    job_id = await running(queue, lease, idempotency_key="key")
    [job] = await queue.inherit(lease, FINGERPRINT)
    queue._submitting.forgotten(job_id)  # another process has stored it
    redis.delete(keys.job(job_id), keys.jobs)
    [idem] = redis.keys(keys.idem("*"))
    redis.delete(idem)
    redis.rpush(idem, "of another kind")
    queue._mending._continuity.note({"run_id": "of the server before"})
    assert not await queue.restore(job.spec, has_output=False)
