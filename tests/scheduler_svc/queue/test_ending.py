"""Jobs that end from outside their lane, and what is left of them."""

from __future__ import annotations

import asyncio

import pytest
from redis import Redis

from scheduler_svc.queue import JobQueue, QueueLimits, retention
from scheduler_svc.queue.keys import Keys
from stepserve.protocol.job import Finish
from stepserve.protocol.sampling import MAX_OUTPUTS
from stepserve.protocol.step import TokenLogprobs
from tests.scheduler_svc.queue.build import (
    ENDED,
    OVERDUE,
    STOP,
    claim_ids,
    lease_on,
    make_overdue,
    output,
    row,
    running,
    spec,
    submit,
    tokens_of,
    within,
)


async def test_a_cancelled_job_leaves_the_queue(queue: JobQueue) -> None:
    cancelled, other = await submit(queue, 2)
    assert await queue.cancel(cancelled, "error", "why")
    assert await claim_ids(queue, await lease_on(queue), 9) == [other]
    assert (await output(queue, cancelled)).finish == Finish("error", "why")


@pytest.mark.parametrize("n", ["1000", "?"])
async def test_a_job_whose_number_of_outputs_is_broken_is_ended_within_bounds(
    queue: JobQueue, redis: Redis, keys: Keys, n: str
) -> None:
    [job_id] = await submit(queue, 1)
    redis.hset(keys.job(job_id), "n", n)
    assert await queue.cancel(job_id)
    finishes = [name for name in redis.hkeys(keys.job(job_id)) if name[:1] == b"f"]
    assert len(finishes) == MAX_OUTPUTS
    assert await queue.num_queued() == 0


async def test_a_job_whose_number_of_outputs_is_broken_begins_anew_within_bounds(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    [job_id] = await submit(queue, 1)
    redis.hset(keys.job(job_id), mapping={"n": "1000", "fingerprint": "f", "f16": "?"})
    await queue._stranding._restart(job_id, b"f")
    assert redis.hmget(keys.job(job_id), "restarts", "f16") == [b"1", b"?"]


async def test_a_cancelled_running_job_keeps_what_it_has(queue: JobQueue) -> None:
    lease = await lease_on(queue)
    job_id = await running(queue, lease, n=3)
    await queue.commit(lease, [row(job_id, 0, [1]), row(job_id, 0, [2], STOP, index=1)])
    assert await queue.cancel(job_id)
    assert await queue.commit(lease, [row(job_id, 1, [3])]) == [ENDED]
    snapshot = await queue.job(job_id)
    assert snapshot is not None
    assert snapshot.state == "ended"
    cancelled = Finish("cancelled")
    outputs = [(o.num_tokens, o.finish) for o in snapshot.outputs]
    assert outputs == [(1, cancelled), (1, STOP), (0, cancelled)]
    assert await queue.requeue(lease, [job_id]) == 0
    await queue.release(lease)
    assert await queue.num_queued() == 0


async def test_a_job_ends_once(queue: JobQueue) -> None:
    lease = await lease_on(queue)
    job_id = await running(queue, lease)
    await queue.commit(lease, [row(job_id, 0, [1], STOP)])
    assert not await queue.cancel(job_id)
    assert not await queue.cancel("unknown")
    assert (await output(queue, job_id)).finish == STOP
    [waiting] = await submit(queue, 1)
    wins = await asyncio.gather(*(queue.cancel(waiting, f"reason {i}") for i in range(10)))
    assert wins.count(True) == 1


async def test_a_job_that_changed_hands_can_be_cancelled(queue: JobQueue) -> None:
    first = await lease_on(queue, "first")
    job_id = await running(queue, first)
    await queue.release(first)
    assert await claim_ids(queue, await lease_on(queue, "second"), 1) == [job_id]
    assert await queue.cancel(job_id)
    assert [job.spec.job_id for job in await queue.jobs(state="running")] == []


async def test_a_job_that_is_claimed_while_it_is_cancelled_is_not_held(
    queue: JobQueue, redis: Redis, redis_url: str, model: str, keys: Keys
) -> None:
    lease = await lease_on(queue)
    taken = 0
    async with JobQueue(redis_url, model) as client:
        for _ in range(40):
            [job_id] = await submit(queue, 1)
            claimed, cancelled = await asyncio.gather(
                claim_ids(queue, lease, 1), client.cancel(job_id)
            )
            taken += len(claimed)
            assert cancelled
            assert redis.zcard(keys.claims("worker")) == 0
    assert taken, "the two have met"


async def test_overdue_jobs_end_with_deadline(queue: JobQueue, redis: Redis, keys: Keys) -> None:
    lease = await lease_on(queue)
    claimed = await running(queue, lease, deadline_s=60.0)
    await queue.commit(lease, [row(claimed, 0, [1])])
    make_overdue(redis, keys, claimed)
    [waiting, later, never] = [
        (await queue.submit(spec(deadline_s=seconds))).job_id for seconds in (0.001, 60.0, 0.0)
    ]
    num_overdue = 0
    async with within():
        while num_overdue < 2:
            num_overdue += (await queue.sweep()).num_overdue
    for job_id in (claimed, waiting):
        assert (await output(queue, job_id)).finish == OVERDUE
    assert await tokens_of(queue, claimed) == (1,)
    assert await claim_ids(queue, lease, 9) == [later, never]
    assert (await queue.sweep()).num_overdue == 0


async def test_a_job_that_ended_in_time_is_not_overdue(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    lease = await lease_on(queue)
    finished = await running(queue, lease, deadline_s=60.0)
    [cancelled] = await submit(queue, 1, deadline_s=60.0)
    await queue.commit(lease, [row(finished, 0, [1], STOP)])
    await queue.cancel(cancelled)
    assert redis.zcard(keys.deadlines) == 0
    assert (await queue.sweep()).num_overdue == 0


async def test_after_its_retention_nothing_is_left_of_a_job(
    redis_url: str, model: str, redis: Redis
) -> None:
    async with JobQueue(redis_url, model, QueueLimits(retention_s=0.0)) as queue:
        before = set(redis.scan_iter(f"ss:{{{model}}}:*"))
        lease = await lease_on(queue)
        asked = spec(n=2, logprobs=0, tenant="t", idempotency_key="k", deadline_s=60.0)
        await queue.submit(asked)
        await claim_ids(queue, lease, 1)
        logprobs = (TokenLogprobs(-1.0),)
        await queue.commit(lease, [row(asked.job_id, 0, [1], STOP, logprobs=logprobs)])
        assert (await queue.sweep()).num_forgotten == 0
        await queue.cancel(asked.job_id)
        async with within():
            while (await queue.sweep()).num_forgotten == 0:
                await asyncio.sleep(0.001)
        assert await queue.job(asked.job_id) is None
        assert await queue.jobs() == []
        assert (await queue.submit(spec(tenant="t", idempotency_key="k"))).existed is False
        await queue.cancel((await queue.jobs())[0].spec.job_id)
        async with within():
            while (await queue.sweep()).num_forgotten == 0:
                await asyncio.sleep(0.001)
        await queue.release(lease)
        left = {
            key.rpartition(b":")[2] for key in set(redis.scan_iter(f"ss:{{{model}}}:*")) - before
        }
        assert left == {b"bell", b"rings", b"worker", b"epoch", b"order", b"lengths"}


async def test_a_sweep_keeps_up_with_many_and_stays_bounded(
    redis_url: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_PAGE", 4)
    monkeypatch.setattr(retention, "_MAX_PAGES", 3)
    async with JobQueue(redis_url, model, QueueLimits(retention_s=0.0)) as queue:
        ids = await submit(queue, 20)
        for job_id in ids:
            await queue.cancel(job_id)
        assert [(await queue.sweep()).num_forgotten for _ in range(3)] == [12, 8, 0]


async def test_a_deadline_left_of_an_ended_job_goes(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    [job_id] = await submit(queue, 1)
    await queue.cancel(job_id)
    redis.zadd(keys.deadlines, {job_id: 1.0})
    assert (await queue.sweep()).num_overdue == 0
    assert redis.zcard(keys.deadlines) == 0


async def test_ended_jobs_are_remembered_until_then(queue: JobQueue) -> None:
    [job_id] = await submit(queue, 1)
    await queue.cancel(job_id)
    assert (await queue.sweep()).num_forgotten == 0
    assert await queue.job(job_id) is not None


@pytest.mark.parametrize("lost", ["job", "deadline"])
async def test_index_entries_of_lost_jobs_go(
    redis_url: str, model: str, redis: Redis, keys: Keys, lost: str
) -> None:
    async with JobQueue(redis_url, model, QueueLimits(retention_s=0.0)) as queue:
        [job_id] = await submit(queue, 1, deadline_s=0.001 if lost == "deadline" else 0.0)
        if lost == "job":
            await queue.cancel(job_id)
        redis.delete(keys.job(job_id))
        async with within():
            while redis.zcard(keys.ended) + redis.zcard(keys.deadlines):
                await queue.sweep()
