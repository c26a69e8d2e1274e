"""What ended is kept within bounds, the oldest go first; what goes on is never touched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis import Redis

from scheduler_svc.queue import EmbeddedRedis, JobQueue, QueueLimits
from scheduler_svc.queue.keys import Keys
from stepserve.protocol.errors import Exhausted
from stepserve.protocol.step import TokenLogprobs
from tests.scheduler_svc.queue.build import (
    APPLIED,
    STOP,
    lease_on,
    output,
    row,
    running,
    spec,
    submit,
    tokens_of,
)

KIB = 1024


async def ended(queue: JobQueue, count: int, **more: object) -> list[str]:
    ids = await submit(queue, count, **more)
    for job_id in ids:
        assert await queue.cancel(job_id)
    return ids


async def known(queue: JobQueue) -> set[str]:
    return {job.spec.job_id for job in await queue.jobs(limit=10_000)}


async def test_of_too_many_the_oldest_go(redis_url: str, model: str) -> None:
    async with JobQueue(redis_url, model, QueueLimits(max_ended_jobs=3)) as queue:
        lease = await lease_on(queue)
        live = [await running(queue, lease), *await submit(queue, 1)]
        ids = await ended(queue, 5)
        assert (await queue.sweep()).num_forgotten == 2
        assert await known(queue) == {*live, *ids[2:]}
        assert (await queue.sweep()).num_forgotten == 0


async def test_of_too_large_ones_the_oldest_go(
    redis_url: str, model: str, redis: Redis, keys: Keys
) -> None:
    async with JobQueue(redis_url, model, QueueLimits(max_ended_bytes=100 * KIB)) as queue:
        lease = await lease_on(queue)
        live = await running(queue, lease, prompt=(1,) * 50 * KIB)
        ids = await ended(queue, 4, prompt=(1,) * 10 * KIB)
        assert (await queue.sweep()).num_forgotten == 0, "not weighed yet"
        assert int(redis.get(keys.ended_bytes) or 0) > 160 * KIB
        assert (await queue.sweep()).num_forgotten == 2
        assert await known(queue) == {live, *ids[2:]}
        assert int(redis.get(keys.ended_bytes) or 0) <= 100 * KIB
        await queue.cancel(live)
        for _ in range(3):
            await queue.sweep()
        assert await known(queue) == set()
        assert redis.get(keys.ended_bytes) is None


async def test_everything_of_a_job_is_weighed(queue: JobQueue, redis: Redis, keys: Keys) -> None:
    lease = await lease_on(queue)
    asked = {"n": 2, "logprobs": 3, "tenant": "t", "idempotency_key": "k"}
    job_id = await running(queue, lease, **asked)
    logprobs = tuple(TokenLogprobs(-1.0, ((1, -1.0), (2, -2.0), (3, -3.0))) for _ in range(99))
    rows = [row(job_id, 0, range(99), STOP, index=i, logprobs=logprobs) for i in range(2)]
    assert await queue.commit(lease, rows) == [APPLIED, APPLIED]
    await queue.sweep()
    names = [
        name for name in redis.scan_iter(f"{keys.job_prefix[:-4]}*") if job_id.encode() in name
    ]
    assert len(names) == 5
    weighed = int(redis.get(keys.ended_bytes))
    assert weighed == int(redis.hget(keys.job(job_id), "bytes"))
    found = sum(redis.memory_usage(name, samples=0) for name in names)
    # The idempotency key's name has no job id; and the hash has grown by its weight.
    assert weighed == pytest.approx(found, rel=0.1)
    assert redis.llen(keys.unweighed) == 0


async def test_a_job_that_is_forgotten_before_it_is_weighed_weighs_nothing(
    redis_url: str, model: str, redis: Redis, keys: Keys
) -> None:
    async with JobQueue(redis_url, model, QueueLimits(max_ended_jobs=1)) as queue:
        ids = await ended(queue, 3)
        await queue.sweep()
        assert await known(queue) == set(ids[2:])
        assert redis.llen(keys.unweighed) == 0
        weight = int(redis.hget(keys.job(ids[2]), "bytes"))
        assert int(redis.get(keys.ended_bytes)) == weight


@asynccontextmanager
async def small_redis(directory: Path, spare_kib: int) -> AsyncIterator[tuple[JobQueue, Redis]]:
    """A queue in a Redis that has so much memory left."""
    with EmbeddedRedis.start(directory) as server, Redis.from_url(server.url) as client:
        async with JobQueue(server.url, "model") as queue:
            await ended(queue, 1)  # scripts and buffers have their memory now
            await queue.sweep()
            used = client.info("memory")["used_memory"]
            client.config_set("maxmemory", used + spare_kib * KIB)
            yield queue, client


async def test_a_small_redis_goes_on_for_ever(tmp_path: Path) -> None:
    async with small_redis(tmp_path, 1500) as (queue, client):
        limit = client.info("memory")["maxmemory"]
        lease = await lease_on(queue)
        live = await running(queue, lease, prompt=(1,) * 9999)
        sent = 0
        while sent * 41_000 < 2 * limit:
            [job_id] = await ended(queue, 1, prompt=(1,) * 10_000)
            sent += 1
            await queue.sweep()
        assert await queue.commit(lease, [row(live, 0, [1], STOP)]) == [APPLIED]
        assert await tokens_of(queue, live) == (1,)
        assert (await output(queue, job_id)).finish is not None, "the newest are kept"


async def test_who_ended_just_now_is_spared_while_there_is_room(tmp_path: Path) -> None:
    async with small_redis(tmp_path, 500) as (queue, client):
        ids = await ended(queue, 3, prompt=(1,) * 10_000)
        used = (await queue.memory()).used_bytes
        client.config_set("maxmemory", int(used / 0.87))
        assert (await queue.sweep()).num_forgotten == 0
        # To the last byte: it is as good as full when Redis takes idle clients' buffers back.
        client.config_set("maxmemory", (await queue.memory()).used_bytes)
        assert (await queue.sweep()).num_forgotten > 0
        assert not set(ids) <= await known(queue)


async def test_a_full_redis_refuses_a_job_with_a_hint_and_keeps_nothing(tmp_path: Path) -> None:
    async with small_redis(tmp_path, 500) as (queue, client):
        [waiting] = await submit(queue, 1)
        client.config_set("maxmemory", 1)
        asked = spec(prompt=(1,) * 10_000)
        with pytest.raises(Exhausted, match="memory") as refused:
            await queue.submit(asked)
        assert refused.value.retry_after_ms > 0
        assert await queue.job(asked.job_id) is None
        assert await queue.cancel(waiting), "what ends makes room"
        assert (await queue.memory()).share > 0.95
        client.config_set("maxmemory", 0)
        assert (await queue.memory()).share == 0.0
        await queue.submit(asked)


async def test_a_broken_record_is_forgotten_like_any_other(
    redis_url: str, model: str, redis: Redis, keys: Keys
) -> None:
    async with JobQueue(redis_url, model, QueueLimits(max_ended_jobs=1)) as queue:
        [late] = await submit(queue, 1, deadline_s=60.0)
        redis.hset(keys.job(late), "deadline", "?")
        ids = await ended(queue, 3)
        redis.hset(keys.job(ids[1]), "n", "?")
        redis.hset(keys.job(ids[2]), "ended", "?")
        assert (await queue.sweep()).num_forgotten == 2
        assert redis.zrange(keys.ended, 0, -1) == [ids[2].encode()]
        assert redis.llen(keys.unweighed) == 0


async def test_sweeps_of_several_processes_agree(redis_url: str, model: str) -> None:
    limits = QueueLimits(max_ended_jobs=5, max_ended_bytes=20 * KIB)
    async with JobQueue(redis_url, model, limits) as a, JobQueue(redis_url, model, limits) as b:
        ids = await ended(a, 30, prompt=(1,) * 1000)
        for _ in range(3):
            await asyncio.gather(a.sweep(), b.sweep())
        left = await known(a)
        assert left == set(ids[-len(left) :])
        assert 1 <= len(left) <= 5
