"""The doorbell: who moved, who arrived, and what is said when that is not known."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest
from redis import Redis

from scheduler_svc.queue import Follower, JobQueue, News
from scheduler_svc.queue.keys import Keys
from tests.scheduler_svc.queue.build import STOP, lease_on, row, running, spec, submit, within


async def started(queue: JobQueue) -> Follower:
    follower = queue.follow()
    async with within():
        assert (await anext(follower)).everything
    return follower


async def until(follower: Follower, wanted: Callable[[News], bool]) -> None:
    async with within():
        async for news in follower:
            if wanted(news):
                return


async def test_commits_and_ends_ring(queue: JobQueue) -> None:
    lease = await lease_on(queue)
    job_id, other = await running(queue, lease), await running(queue, lease)
    follower = await started(queue)
    await queue.commit(lease, [row(job_id, 0, [1])])
    async with within():
        assert await anext(follower) == News(frozenset({job_id}))
    await queue.commit(lease, [row(job_id, 1, [2], STOP), row(other, 0, [3])])
    async with within():
        moved, finished = frozenset({job_id, other}), frozenset({job_id})
        assert await anext(follower) == News(moved, finished=finished)
    await queue.cancel(other)
    async with within():
        assert await anext(follower) == News(frozenset({other}), frozenset({other}))


async def test_an_entry_of_a_version_that_told_no_ends_is_understood(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    follower = await started(queue)
    redis.xadd(keys.bell, {"moved": "a\0b"}, id=f"{redis.incr(keys.rings)}-0")
    async with within():
        assert await anext(follower) == News(frozenset({"a", "b"}))


async def test_a_slow_follower_hears_everything_in_one(queue: JobQueue) -> None:
    lease = await lease_on(queue)
    ids = [await running(queue, lease) for _ in range(5)]
    slow, fast = await started(queue), await started(queue)
    for job_id in ids:
        await queue.commit(lease, [row(job_id, 0, [1])])
        await until(fast, lambda news, job_id=job_id: job_id in news.moved)  # type: ignore[misc]
    assert (await anext(slow)).moved == set(ids)


async def test_nothing_moved_nobody_hears(queue: JobQueue) -> None:
    lease = await lease_on(queue)
    job_id = await running(queue, lease)
    await queue.commit(lease, [row(job_id, 0, [1])])
    follower = await started(queue)
    await queue.commit(lease, [row(job_id, 0, [1]), row("unknown", 0, [1])])
    await queue.cancel("unknown")
    await queue.commit(lease, [row(job_id, 1, [2])])
    async with within():
        assert await anext(follower) == News(frozenset({job_id}))


async def test_trimmed_entries_are_noticed(queue: JobQueue, redis: Redis, keys: Keys) -> None:
    lease = await lease_on(queue)
    job_id = await running(queue, lease)
    follower = await started(queue)
    # In one transaction, so that the reader cannot be quicker than the trimming.
    with redis.pipeline() as pipe:
        last = int(redis.get(keys.rings) or 0)
        for number in range(last + 1, last + 4):
            pipe.incr(keys.rings)
            pipe.xadd(keys.bell, {"moved": job_id}, id=f"{number}-0")
        pipe.xtrim(keys.bell, maxlen=1, approximate=False)
        pipe.execute()
    async with within():
        assert (await anext(follower)).everything
    await queue.cancel(job_id)
    async with within():
        assert await anext(follower) == News(frozenset({job_id}), frozenset({job_id}))


async def test_a_lost_connection_is_noticed(
    queue: JobQueue, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    follower = await started(queue)
    seen = queue.num_arrivals
    redis.client_kill_filter(_type="normal", skipme=True)
    async with within():
        assert (await anext(follower)).everything
    assert queue.num_arrivals > seen
    [job_id] = await submit(queue, 1)
    await queue.cancel(job_id)
    await until(follower, lambda news: job_id in news.ended)


async def test_a_follower_with_too_much_to_remember_is_told_so() -> None:
    async with JobQueue("redis://127.0.0.1:1", "model") as queue:
        follower = queue.follow()
        follower.add([str(i) for i in range(10_000)], [])
        assert len((await anext(follower)).moved) == 10_000
        follower.add([str(i) for i in range(10_001)], ["x"])
        assert await anext(follower) == News(everything=True)


async def test_arrivals_wake_whoever_waits_for_jobs(queue: JobQueue) -> None:
    await started(queue)
    lease = await lease_on(queue)

    async def arrives(action: Callable[[], object]) -> None:
        seen = queue.num_arrivals
        waiter = asyncio.create_task(queue.wait_for_jobs(seen, 60.0))
        await asyncio.sleep(0)
        await action()  # type: ignore[misc]
        async with within():
            await waiter
        assert queue.num_arrivals > seen

    asked = spec()
    await arrives(lambda: queue.submit(asked))
    await queue.claim(lease, "fingerprint", 1)
    await arrives(lambda: queue.requeue(lease, [asked.job_id]))
    await queue.claim(lease, "fingerprint", 1)
    await arrives(lambda: queue.acquire("worker", lease.holder, 60_000))


async def test_an_arrival_before_the_wait_is_not_missed(queue: JobQueue) -> None:
    await started(queue)
    seen = queue.num_arrivals
    await submit(queue, 1)
    async with within():
        await queue.wait_for_jobs(seen, 60.0)
        await queue.wait_for_jobs(seen, 60.0)
        await queue.wait_for_jobs(queue.num_arrivals, 0.01)


async def test_a_reader_that_fails_says_so(queue: JobQueue, redis: Redis, keys: Keys) -> None:
    follower = await started(queue)
    redis.set(keys.bell, "not a stream")
    redis.client_kill_filter(_type="normal", skipme=True)
    with pytest.raises(RuntimeError, match="doorbell"):
        await until(follower, lambda _: False)
    with pytest.raises(RuntimeError, match="doorbell"):
        async with within():
            await queue.wait_for_jobs(queue.num_arrivals, 60.0)


@pytest.mark.parametrize("is_alone", [True, False])
async def test_who_does_not_hear_what_moved_hears_what_ended(
    queue: JobQueue, is_alone: bool
) -> None:
    lease = await lease_on(queue)
    moving, cancelled = await running(queue, lease), await running(queue, lease)
    follower = queue.follow(hear_moved=False)
    other = None if is_alone else await started(queue)
    async with within():
        assert (await anext(follower)).everything
    await queue.commit(lease, [row(moving, 0, [1])])
    await queue.cancel(cancelled)
    async with within():
        assert await anext(follower) == News(ended=frozenset({cancelled}))
    if other is not None:
        await until(other, lambda news: cancelled in news.ended)
