"""Jobs that were there when lanes failed: who is blamed, who is claimed, who ends."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis import Redis

from scheduler_svc.queue import EmbeddedRedis, Fenced, JobQueue, Lease
from scheduler_svc.queue.keys import Keys
from stepserve.protocol.job import Finish
from tests.scheduler_svc.queue.build import (
    FINGERPRINT,
    claim_ids,
    lease_on,
    row,
    running,
    submit,
)


async def suspect_ids(queue: JobQueue, lease: Lease) -> list[str]:
    answer = await queue.claim_suspect(lease, FINGERPRINT)
    return [job.spec.job_id for job in answer.jobs]


async def failed(queue: JobQueue, lease: Lease) -> Lease:
    """The lane of the lease fails with what it holds, and takes the worker anew."""
    await queue.strike(lease, tuple(await queue.claimed(lease)), "Boom: it broke")
    return await lease_on(queue, lease.worker_id)


async def test_suspects_are_passed_over_and_claimed_one_by_one(queue: JobQueue) -> None:
    lease = await lease_on(queue)
    ids = await submit(queue, 3)
    assert await claim_ids(queue, lease, 2) == ids[:2]
    lease = await failed(queue, lease)
    assert await claim_ids(queue, lease, 3) == ids[2:], "a suspect is claimed like any other"
    [first] = await suspect_ids(queue, lease)
    [second] = await suspect_ids(queue, lease)
    assert {first, second} == set(ids[:2])
    assert await suspect_ids(queue, lease) == []


async def test_one_that_was_there_twice_has_a_lane_of_its_own(queue: JobQueue) -> None:
    lease = await lease_on(queue)
    ids = await submit(queue, 2)
    for _ in range(2):
        while (claimed := await queue.claimed(lease)) != set(ids):
            await claim_ids(queue, lease, 2)
            await suspect_ids(queue, lease)
        lease = await failed(queue, lease)
    other = await lease_on(queue, "other")
    await running(queue, other)
    answer = await queue.claim_suspect(other, FINGERPRINT)
    assert not answer.jobs
    assert answer.is_lane_wanted
    assert claimed == set(ids)
    assert len(await suspect_ids(queue, lease)) == 1
    assert await suspect_ids(queue, lease) == [], "it is not alone"


async def test_who_is_alone_in_two_lanes_that_fail_ends(queue: JobQueue) -> None:
    lease = await lease_on(queue)
    job_id = await running(queue, lease)
    lease = await failed(queue, lease)
    await queue.sweep()
    assert await suspect_ids(queue, lease) == [job_id]
    lease = await failed(queue, lease)
    assert await suspect_ids(queue, lease) == [], "it is to be ended"
    await queue.sweep()
    job = await queue.job(job_id)
    assert job is not None
    assert job.outputs[0].finish is not None
    assert job.outputs[0].finish.reason == "error"
    assert job.outputs[0].finish.message == "it can't be run: Boom: it broke"
    assert await queue.num_queued() == 0


async def test_the_absolved_are_like_any_other(queue: JobQueue) -> None:
    lease = await lease_on(queue)
    job_id = await running(queue, lease)
    lease = await failed(queue, lease)
    await queue.absolve([job_id])
    assert await suspect_ids(queue, lease) == []
    assert await claim_ids(queue, lease, 1) == [job_id]
    lease = await failed(queue, lease)
    assert await suspect_ids(queue, lease) == [job_id], "one strike, not two"


async def test_a_lane_that_was_fenced_off_blames_nobody(queue: JobQueue) -> None:
    lease = await lease_on(queue)
    job_id = await running(queue, lease)
    newer = await lease_on(queue)
    with pytest.raises(Fenced):
        await queue.strike(lease, [job_id], "late")
    assert await claim_ids(queue, newer, 1) == [job_id]


async def test_suspects_that_have_ended_are_forgotten(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    lease = await lease_on(queue)
    job_id = await running(queue, lease)
    lease = await failed(queue, lease)
    await queue.cancel(job_id)
    assert await suspect_ids(queue, lease) == []
    await queue.sweep()
    assert redis.zcard(keys.suspects) == 0


@pytest.mark.parametrize("field", ["spec", "prompt", "arrival", "share", "deadline"])
async def test_a_record_that_is_broken_ends_its_own_job(
    queue: JobQueue, redis: Redis, keys: Keys, field: str
) -> None:
    lease = await lease_on(queue)
    broken, sound = await submit(queue, 2)
    redis.hset(keys.job(broken), field, "?")
    assert await claim_ids(queue, lease, 2) == [sound]
    finish = redis.hget(keys.job(broken), "f0")
    assert finish is not None
    assert b'"error"' in finish


async def test_logs_of_a_wrong_kind_end_their_own_job(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    lease = await lease_on(queue)
    ids = [await running(queue, lease) for _ in range(2)]
    await queue.commit(lease, [row(job_id, 0, [1]) for job_id in ids])
    await queue.requeue(lease, ids)
    redis.delete(keys.log(ids[0], 0))
    redis.rpush(keys.log(ids[0], 0), "not a string")
    assert await claim_ids(queue, lease, 2) == [ids[1]]


async def test_a_full_redis_remembers_who_is_blamed(tmp_path: Path) -> None:
    with EmbeddedRedis.start(tmp_path) as server, Redis.from_url(server.url) as client:
        async with JobQueue(server.url, "model") as queue:
            lease = await lease_on(queue)
            job_id = await running(queue, lease)
            client.config_set("maxmemory", 1)
            assert await queue.strike(lease, [job_id], "Boom") == 1
            assert await queue.strike(lease, [job_id], "Boom") == 1
            await queue.sweep()
            snapshot = await queue.job(job_id)
            assert snapshot is not None
            assert snapshot.outputs[0].finish == Finish("error", "it can't be run: Boom")
