"""A job that would wait too long for its deadline is refused, and told when to come again."""

from __future__ import annotations

import asyncio
import re

import pytest
from redis import Redis

from scheduler_svc.queue import JobQueue, Lease, Order, Quota
from scheduler_svc.queue.keys import Keys
from stepserve.protocol.errors import Exhausted
from tests.scheduler_svc.queue.build import STOP, claim_ids, lease_on, row, spec, submit

S_PER_JOB = 0.5


@pytest.fixture
async def lease(queue: JobQueue, redis: Redis, keys: Keys) -> Lease:
    """Of a worker that runs four jobs, one of which ends every half second; nine wait."""
    lease = await lease_on(queue)
    await submit(queue, 13)
    await claim_ids(queue, lease, 4)
    redis.hset(keys.pace, mapping={"jobs": 20, "s": 20 * S_PER_JOB})
    return lease


async def refusal(queue: JobQueue, deadline_s: float, needed_s: float = 0.0) -> Exhausted:
    asked = spec(deadline_s=deadline_s)
    with pytest.raises(Exhausted, match="deadline_s: up to") as caught:
        await queue.submit(asked, needed_s=needed_s)
    assert await queue.job(asked.job_id) is None
    return caught.value


@pytest.mark.usefixtures("lease")
async def test_it_waits_for_those_before_it_and_then_takes_as_long_as_they(
    queue: JobQueue,
) -> None:
    error = await refusal(queue, deadline_s=8.5)
    # Nine, and two times the root of nine.
    assert re.findall(r"[\d.]+ s", str(error)) == ["7.5 s", "2 s", "8.5 s"]
    assert 1000 <= error.retry_after_ms <= 1002
    assert (await refusal(queue, deadline_s=8.0, needed_s=4.0)).retry_after_ms > 3000
    num_queued = await queue.num_queued()
    await queue.submit(spec(deadline_s=9.6), needed_s=0.0)
    await queue.submit(spec(), needed_s=0.0)
    await queue.submit(spec(deadline_s=0.1))
    assert await queue.num_queued() == num_queued + 3


@pytest.mark.usefixtures("lease")
async def test_a_job_that_is_there_is_not_refused(queue: JobQueue) -> None:
    asked = spec(deadline_s=10.0, idempotency_key="key")
    await queue.submit(asked, needed_s=0.0)
    await submit(queue, 10)
    again = await queue.submit(spec(deadline_s=10.0, idempotency_key="key"), needed_s=0.0)
    assert (again.job_id, again.existed) == (asked.job_id, True)
    assert (await queue.submit(asked, needed_s=0.0)).job_id == asked.job_id


@pytest.mark.usefixtures("lease")
async def test_who_is_more_urgent_waits_for_fewer(
    queue: JobQueue, redis_url: str, model: str
) -> None:
    async with JobQueue(redis_url, model, order=Order(policy="priority")) as other:
        await other.adopt_order()
        await refusal(queue, deadline_s=3.0)
        await queue.submit(spec(deadline_s=3.0, priority=10), needed_s=0.0)


@pytest.mark.usefixtures("lease")
async def test_what_no_worker_can_run_is_before_nobody(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    waiting = redis.zrange(keys.queue, 0, -1)
    redis.zadd(keys.stranded, dict.fromkeys(waiting[:8], 1.0))
    await queue.submit(spec(deadline_s=4.0), needed_s=0.0)


async def test_nothing_is_refused_while_few_have_ended(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    await submit(queue, 50)
    redis.hset(keys.pace, mapping={"jobs": 7.9, "s": 100.0})
    await queue.submit(spec(deadline_s=1.0), needed_s=0.0)


async def test_the_pace_is_that_of_jobs_that_end_while_others_wait(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    lease = await lease_on(queue)

    async def end_one() -> None:
        [job_id] = await claim_ids(queue, lease, 1)
        await queue.commit(lease, [row(job_id, 0, [1], STOP)])

    async def pace() -> tuple[float, float]:
        known = [float(value or 0) for value in redis.hmget(keys.pace, "jobs", "s")]
        return known[0], known[1]

    for _ in range(3):
        await submit(queue, 1)
        await end_one()
    assert await pace() == (0.0, 0.0), "it was idle"
    await submit(queue, 4)
    for _ in range(3):
        await end_one()
        await asyncio.sleep(0.1)
    num_ended, busy_s = await pace()
    assert 1 < num_ended <= 2, "of the first, nobody knows since when; they fade"
    assert busy_s >= 0.2
    await end_one()
    assert await pace() == (num_ended, busy_s), "nobody waits any more"


@pytest.mark.usefixtures("lease")
async def test_a_refused_job_takes_nothing_of_its_key_s_quota(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    asked, quota = spec(deadline_s=8.5), Quota("aaaaaa", weight=2.0, requests_per_minute=5)
    with pytest.raises(Exhausted, match="deadline_s: up to"):
        await queue.submit(asked, needed_s=0.0, quota=quota)
    assert not redis.exists(keys.quotas, keys.job(asked.job_id))
