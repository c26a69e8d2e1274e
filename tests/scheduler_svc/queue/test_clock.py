"""The clock of Redis goes back or forward: what was stored before lies ahead, or behind.

A test moves the stored times, which to the scripts is the same.
"""

from __future__ import annotations

import pytest
from redis import Redis

from scheduler_svc.queue import Fenced, JobQueue, Order, QueueLimits
from scheduler_svc.queue.keys import Keys
from stepserve.protocol.job import Finish
from tests.scheduler_svc.queue.build import (
    APPLIED,
    OVERDUE,
    STOP,
    claim_ids,
    lease_on,
    move_times,
    output,
    row,
    running,
    spec,
    submit,
)

HOUR_S = 3600.0


@pytest.mark.parametrize("ahead_s", [1.0, HOUR_S, 1e9])
async def test_a_lease_further_ahead_than_its_time_to_live_is_none(
    queue: JobQueue, redis: Redis, keys: Keys, ahead_s: float
) -> None:
    dead = await lease_on(queue)
    job_id = await running(queue, dead)
    assert await queue.acquire("worker", "another", 60_000) is None
    move_times(redis, keys, ahead_s)
    assert await queue.workers() == []
    lease = await queue.acquire("worker", "another", 60_000)
    assert lease is not None
    assert lease.epoch > dead.epoch
    assert [record.holder for record in await queue.workers()] == ["another"]
    assert await claim_ids(queue, lease, 9) == [job_id]
    with pytest.raises(Fenced):
        await queue.commit(dead, [row(job_id, 0, [1])])


async def test_a_lease_is_measured_by_its_own_time_to_live(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    await lease_on(queue, ttl_ms=60_000)
    assert await queue.acquire("worker", "another", 1) is None
    redis.hdel(keys.lease("worker"), "ttl")  # as versions wrote it that did not know of it
    assert await queue.acquire("worker", "another", 60_000) is None
    assert await queue.acquire("worker", "another", 1000) is not None


async def test_a_dead_lease_ahead_is_freed_and_its_jobs_wait(
    redis_url: str, model: str, redis: Redis, keys: Keys
) -> None:
    async with JobQueue(redis_url, model, QueueLimits(lease_grace_s=0.0)) as queue:
        job_id = await running(queue, await lease_on(queue))
        assert (await queue.sweep()).num_given_up == 0
        move_times(redis, keys, HOUR_S)
        assert (await queue.sweep()).num_given_up == 1
        assert [job.spec.job_id for job in await queue.jobs(state="queued")] == [job_id]


async def test_a_living_holder_keeps_its_lease_when_the_clock_goes_back(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    lease = await lease_on(queue)
    job_id = await running(queue, lease)
    move_times(redis, keys, HOUR_S)
    for _ in range(2):
        assert (await queue.sweep()).num_given_up == 0
    assert await queue.commit(lease, [row(job_id, 0, [1])]) == [APPLIED]
    assert (await queue.renew(lease)).is_ours
    assert len(await queue.workers()) == 1
    assert await queue.acquire("worker", "another", 60_000) is None


async def test_a_lease_that_lies_behind_can_be_taken(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    await lease_on(queue)
    move_times(redis, keys, -HOUR_S)
    assert await queue.workers() == []
    assert await queue.acquire("worker", "another", 60_000) is not None


async def test_epochs_grow_even_where_the_worker_is_forgotten(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    ahead = (await lease_on(queue)).epoch + 10**12
    redis.hset(keys.lease("worker"), "epoch", ahead)
    assert await queue.release(await lease_on(queue))
    redis.delete(keys.lease("worker"))  # as it is after a week
    assert (await lease_on(queue)).epoch > ahead + 1


@pytest.mark.parametrize("moved", ["all", "deadline"])
async def test_a_deadline_is_no_further_ahead_than_was_asked(
    queue: JobQueue, redis: Redis, keys: Keys, moved: str
) -> None:
    lease = await lease_on(queue)
    job_id = await running(queue, lease, deadline_s=30.0)
    if moved == "all":
        move_times(redis, keys, HOUR_S)
    else:
        redis.hincrbyfloat(keys.job(job_id), "deadline", HOUR_S)
        redis.zincrby(keys.deadlines, HOUR_S, job_id)
    assert (await queue.sweep()).num_settled == 1
    assert (await queue.sweep()).num_settled == 0
    left_s = float(redis.hget(keys.job(job_id), "deadline")) - await queue.now_s()
    assert 20.0 < left_s <= 30.0
    assert redis.zscore(keys.deadlines, job_id) == pytest.approx(
        left_s + await queue.now_s(), abs=9
    )


async def test_every_deadline_is_examined(
    queue: JobQueue, redis: Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler_svc.queue.ending._MAX_SWEPT", 3)
    await submit(queue, 8, deadline_s=30.0)
    move_times(redis, keys, HOUR_S)
    assert sum([(await queue.sweep()).num_settled for _ in range(4)]) == 8


async def test_a_deadline_that_lies_behind_has_passed(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    [job_id] = await submit(queue, 1, deadline_s=30.0)
    move_times(redis, keys, -HOUR_S)
    assert (await queue.sweep()).num_overdue == 1
    assert (await output(queue, job_id)).finish == OVERDUE


async def test_what_ended_ahead_is_not_kept_longer_for_it(
    redis_url: str, model: str, redis: Redis, keys: Keys
) -> None:
    async with JobQueue(redis_url, model, QueueLimits(retention_s=60.0)) as queue:
        ids = await submit(queue, 3)
        for job_id in ids:
            await queue.cancel(job_id)
        move_times(redis, keys, HOUR_S)
        sweep = await queue.sweep()
        assert (sweep.num_settled, sweep.num_forgotten) == (3, 0)
        now_s = await queue.now_s()
        assert [job_id.decode() for job_id in redis.zrange(keys.ended, 0, -1)] == ids
        for job_id in ids:
            snapshot = await queue.job(job_id)
            assert snapshot is not None
            assert snapshot.ended_s <= now_s
        move_times(redis, keys, -61.0)
        assert (await queue.sweep()).num_forgotten == 3


@pytest.mark.parametrize("policy", ["fcfs", "priority", "fair"])
async def test_newcomers_stand_behind_those_who_were_there(
    redis_url: str, model: str, redis: Redis, keys: Keys, policy: str
) -> None:
    order = Order(policy=policy)  # type: ignore[arg-type]
    async with JobQueue(redis_url, model, order=order) as queue:
        lease = await lease_on(queue)
        earlier = await submit(queue, 2, tenant="a")
        move_times(redis, keys, HOUR_S)
        later = await submit(queue, 2, tenant="a")
        arrival_s = float(redis.hget(keys.job(later[0]), "arrival"))
        assert abs(arrival_s - await queue.now_s()) < 60.0, "what is told is the time"
        assert await claim_ids(queue, lease, 9) == earlier + later


async def test_waiting_counts_on_behind_a_clock_that_went_back(
    redis_url: str, model: str, redis: Redis, keys: Keys
) -> None:
    async with JobQueue(redis_url, model, order=Order(policy="priority")) as queue:
        [first] = await submit(queue, 1)
        move_times(redis, keys, HOUR_S)
        [second] = await submit(queue, 1)
        turns = [redis.zscore(keys.jobs, job_id) for job_id in (first, second)]
        move_times(redis, keys, -40.0)  # so long after
        urgent = await submit(queue, 1, priority=10)
        assert redis.zscore(keys.jobs, urgent[0]) == pytest.approx(turns[1], abs=9.0)
        assert turns[0] < turns[1]
        assert await claim_ids(queue, await lease_on(queue), 9) == [first, second, *urgent]


async def test_with_nobody_left_turns_are_arrivals_again(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    lease = await lease_on(queue)
    first = await running(queue, lease)
    move_times(redis, keys, HOUR_S)
    second = await running(queue, lease)
    assert redis.hexists(keys.job(second), "turn")
    for job_id in (first, second):
        await queue.commit(lease, [row(job_id, 0, [1], STOP)])
    move_times(redis, keys, HOUR_S)
    await queue.sweep()
    assert not redis.hexists(keys.job((await submit(queue, 1))[0]), "turn")
    assert redis.get(keys.ahead) is None


async def test_another_order_ranks_by_turns(
    redis_url: str, model: str, redis: Redis, keys: Keys
) -> None:
    async with JobQueue(redis_url, model) as queue:
        earlier = await submit(queue, 1)
        move_times(redis, keys, HOUR_S)
        later = await submit(queue, 1)
        async with JobQueue(redis_url, model, order=Order(policy="priority")) as other:
            await other.adopt_order()
            assert await claim_ids(other, await lease_on(other), 9) == earlier + later


async def test_jobs_of_a_version_without_these_fields_go_on(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    asked = spec(deadline_s=30.0)
    await queue.submit(asked)
    redis.hdel(keys.job(asked.job_id), "within")
    assert (await queue.sweep()).num_settled == 0
    redis.hincrbyfloat(keys.job(asked.job_id), "arrival", HOUR_S)
    redis.hincrbyfloat(keys.job(asked.job_id), "deadline", HOUR_S)
    redis.zincrby(keys.deadlines, HOUR_S, asked.job_id)
    assert (await queue.sweep()).num_settled == 1
    assert await queue.cancel(asked.job_id)
    assert (await output(queue, asked.job_id)).finish == Finish("cancelled")
