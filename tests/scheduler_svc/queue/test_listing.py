"""What is told of jobs."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from redis import Redis

from scheduler_svc.queue import Corrupt, JobQueue, JobState, LogRequest
from scheduler_svc.queue.keys import Keys
from scheduler_svc.queue.listing import list_snapshots
from stepserve.protocol.step import TokenLogprobs
from tests.scheduler_svc.queue.build import STOP, claim_ids, lease_on, row, running, spec, submit


async def test_a_snapshot_says_all_but_the_tokens(queue: JobQueue) -> None:
    asked = spec(prompt=range(9), n=2, tenant="t", priority=4)
    await queue.submit(asked)
    snapshot = await queue.job(asked.job_id)
    assert snapshot is not None
    assert (snapshot.state, snapshot.ended_s, snapshot.num_prompt_tokens) == ("queued", 0.0, 9)
    assert snapshot.spec.prompt_token_ids == ()
    assert (snapshot.spec.tenant, snapshot.spec.priority) == ("t", 4)
    lease = await lease_on(queue)
    await claim_ids(queue, lease, 1)
    await queue.commit(lease, [row(asked.job_id, 0, [1, 2], index=1)])
    snapshot = await queue.job(asked.job_id)
    assert snapshot is not None
    assert snapshot.state == "running"
    assert [output.num_tokens for output in snapshot.outputs] == [0, 2]


async def test_jobs_by_state_and_tenant_newest_first(queue: JobQueue) -> None:
    ids = []
    for number in range(9):
        ids += await submit(queue, 1, tenant="ab"[number % 2])
    await claim_ids(queue, await lease_on(queue, "x"), 3)
    await claim_ids(queue, await lease_on(queue, "y"), 3)
    for job_id in (ids[0], ids[8]):
        await queue.cancel(job_id)

    async def listed(**filters: object) -> list[int]:
        jobs = await queue.jobs(**filters)  # type: ignore[arg-type]
        return [ids.index(job.spec.job_id) for job in jobs]

    assert await listed() == [8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert await listed(limit=2) == [8, 7]
    assert await listed(state="queued") == [7, 6]
    assert await listed(state="running") == [5, 4, 3, 2, 1]
    assert await listed(state="ended") == [8, 0]
    assert await listed(tenant="b") == [7, 5, 3, 1]
    assert await listed(tenant="b", state="running", limit=2) == [5, 3]
    assert await listed(tenant="nobody") == []


async def test_listing_goes_past_a_page(queue: JobQueue) -> None:
    ids = await submit(queue, 270)
    assert [job.spec.job_id for job in await queue.jobs(limit=999)] == ids[::-1]
    assert len(await queue.jobs(state="queued", limit=200)) == 200


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("f0", '{"message":"stop"}'),
        ("f0", '{"reason":5}'),
        ("spec", "{}"),
        ("spec", "no JSON"),
        ("spec", '{"job_id":"a","model":"m","sampling":{"max_tokens":5},"tenant":5}'),
        ("spec", '{"job_id":"a","model":"m","sampling":{"max_tokens":5,"stop":[5]}}'),
        ("arrival", "now"),
        ("ended", "now"),
        ("n", "many"),
        ("n", "99999"),
        ("n", "-1"),
    ],
)
async def test_a_job_that_cannot_be_read_hides_no_other(
    queue: JobQueue, redis: Redis, keys: Keys, field: str, value: str
) -> None:
    first, broken, last = [(await submit(queue, 1, n=n))[0] for n in (1, 2, 3)]
    redis.hset(keys.job(broken), field, value)
    assert [job.spec.job_id for job in await queue.jobs()] == [last, first]
    assert [len(job.outputs) for job in await queue.jobs()] == [3, 1]
    with pytest.raises(Corrupt):
        await queue.job(broken)


async def test_a_key_of_another_kind_hides_no_job_and_no_worker(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    good, *broken = await submit(queue, 3)
    lease = await lease_on(queue)
    await lease_on(queue, "broken")
    for key in (keys.job(broken[0]), keys.log(broken[1], 0), keys.lease("broken")):
        redis.delete(key)
        redis.rpush(key, "no hash and no string")
    assert [job.spec.job_id for job in await queue.jobs()] == [good]
    assert [job.job_id for job in await queue.line(9)] == [good, broken[1]]
    assert await queue.ended_of([broken[0], good]) == set()
    assert [worker.worker_id for worker in await queue.workers()] == [lease.worker_id]
    assert await queue.allowance(lease, 9) > 0
    redis.zadd(keys.suspects, {broken[0]: 1})
    redis.zadd(keys.stranded, {broken[0]: 1})
    redis.zadd(keys.ended, {broken[0]: 1})
    redis.rpush(keys.unweighed, broken[0])
    with contextlib.suppress(Corrupt):
        await queue.sweep()
    assert (await queue.sweep()).num_forgotten == 0, "it is gone already"
    assert not redis.exists(keys.job(broken[0]))


async def test_jobs_that_arrive_meanwhile_repeat_none(queue: JobQueue) -> None:
    ids = await submit(queue, 140)
    listing = list_snapshots(queue._shard, None)
    listed = [await anext(listing)]
    await submit(queue, 20)
    listed += [snapshot async for snapshot in listing]
    assert [snapshot.spec.job_id for _, snapshot in listed] == ids[::-1]


@pytest.mark.parametrize("state", [None, "queued", "ended"])
async def test_pages_leave_out_and_repeat_none(
    queue: JobQueue, redis_url: str, model: str, state: JobState | None
) -> None:
    """Whatever comes and goes between them, and where many are of one moment."""
    ids = await submit(queue, 150)
    if state == "ended":
        for job_id in ids:
            await queue.cancel(job_id)
    keys = Keys(model)
    index = keys.ended if state == "ended" else keys.jobs
    with Redis.from_url(redis_url) as redis:
        redis.zadd(index, dict.fromkeys(ids[5:145], 1.5))
        order = [i.decode() for i in redis.zrevrange(index, 0, -1)]
        seen: list[str] = []
        after = None
        while len(seen) < len(ids):
            jobs, after = await queue.page(state=state, limit=30, after=after)
            seen += [job.spec.job_id for job in jobs]
            if after is not None:
                # What was shown last is forgotten, another comes, before those that are left.
                redis.zrem(index, after.job_id)
                redis.zrem(keys.queue, after.job_id)
                new = await submit(queue, 1)
                if state == "ended":
                    await queue.cancel(new[0])
    assert (seen, after) == (order, None)


async def test_a_page_tells_whether_there_are_more(queue: JobQueue) -> None:
    ids = await submit(queue, 4, tenant="a")
    await submit(queue, 1, tenant="b")
    jobs, after = await queue.page(tenant="a", limit=3)
    assert ([job.spec.job_id for job in jobs], after is None) == (ids[:0:-1], False)
    jobs, after = await queue.page(tenant="a", limit=3, after=after)
    assert ([job.spec.job_id for job in jobs], after) == (ids[:1], None)
    assert (await queue.page(tenant="a", limit=4))[1] is None


async def test_how_long_a_job_waited_is_told(queue: JobQueue, redis_url: str, model: str) -> None:
    waiting, claimed, cancelled, older = await submit(queue, 4)
    lease = await lease_on(queue)

    async def queued_s(job_id: str) -> float | None:
        job = await queue.job(job_id)
        assert job is not None
        return job.queued_s

    first = await queued_s(waiting)
    assert first is not None
    assert 0 <= first < (await queued_s(waiting) or 0), "it goes on waiting"
    await queue.cancel(cancelled)
    assert await claim_ids(queue, lease, 1) == [waiting]
    assert await claim_ids(queue, lease, 2) == [claimed, older]
    for job_id in (waiting, claimed, cancelled):
        assert await queued_s(job_id) == await queued_s(job_id), "it waits no more"
    assert (await queued_s(waiting) or 0) > first
    assert (await queued_s(claimed) or 0) > 0
    with Redis.from_url(redis_url) as redis:
        redis.hdel(Keys(model).job(older), "started")  # as versions before had it
    assert await queued_s(older) is None


async def test_what_is_forgotten_leaves_nothing(queue: JobQueue, redis_url: str) -> None:
    lease = await lease_on(queue)
    job_id = await running(queue, lease, idempotency_key="k", logprobs=0, n=2)
    await queue.commit(lease, [row(job_id, 0, [1], logprobs=[TokenLogprobs(-1.0)], index=1)])
    assert not await queue.forget(job_id), "it has not ended"
    await queue.cancel(job_id)
    assert await queue.forget(job_id)
    assert not await queue.forget(job_id)
    assert await queue.job(job_id) is None
    with Redis.from_url(redis_url) as redis:
        assert [key for key in redis.keys("*") if job_id.encode() in key] == []
    again = spec(idempotency_key="k")
    assert (await queue.submit(again)).job_id == again.job_id, "the key is free again"


async def test_reads_from_any_offset_and_beyond(queue: JobQueue) -> None:
    lease = await lease_on(queue)
    first, second = await submit(queue, 2)
    await claim_ids(queue, lease, 2)
    await queue.commit(lease, [row(first, 0, [1, 2, 3]), row(second, 0, [9])])
    requests = [LogRequest(first, 0, offset) for offset in (0, 2, 3, 50)]
    logs = await queue.read([*requests, LogRequest("unknown"), LogRequest(second)])
    assert [log and (log.offset, log.token_ids) for log in logs] == [
        (0, (1, 2, 3)),
        (2, (3,)),
        (3, ()),
        (50, ()),
        None,
        (0, (9,)),
    ]
    assert await queue.read([]) == []


async def test_a_bounded_read_tells_of_the_end_with_the_last_token(queue: JobQueue) -> None:
    lease = await lease_on(queue)
    job_id = await running(queue, lease, logprobs=0)
    logprobs = [TokenLogprobs(-float(i)) for i in range(5)]
    await queue.commit(lease, [row(job_id, 0, range(5), STOP, logprobs=logprobs)])
    requests = [
        LogRequest(job_id, 0, offset, True, most) for offset in (0, 3, 5) for most in (2, 9)
    ]
    logs = await queue.read(requests)
    assert [log and (log.token_ids, log.finish) for log in logs] == [
        ((0, 1), None),
        ((0, 1, 2, 3, 4), STOP),
        ((3, 4), None),
        ((3, 4), STOP),
        ((), STOP),
        ((), STOP),
    ]
    assert [log and list(log.logprobs) for log in logs[:3]] == [
        logprobs[:2],
        logprobs,
        logprobs[3:],
    ]


async def test_models_do_not_see_each_other(redis_url: str, model: str) -> None:
    names = [model, model + "}", "{" + model, model + "}:queue", model + " é"]
    queues = [JobQueue(redis_url, name) for name in names]
    try:
        await asyncio.gather(*(submit(queue, i + 1) for i, queue in enumerate(queues)))
        assert [await queue.num_queued() for queue in queues] == [1, 2, 3, 4, 5]
    finally:
        await asyncio.gather(*(queue.close() for queue in queues))
