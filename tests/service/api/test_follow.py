"""One reader of Redis for all followers of a process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from redis import Redis

from protos.job import Finish, JobSpec, OutputLog, SamplingParams
from scheduler_svc.api.follow import FollowHub
from scheduler_svc.queue import Corrupt, JobQueue, LogRequest
from scheduler_svc.queue.keys import Keys
from tests.service.api.served import Lane, break_bell

NUM_FOLLOWERS = 40


class CountingQueue(JobQueue):
    """Counts how often logs are read."""

    num_reads = 0

    async def read(self, requests: Sequence[LogRequest]) -> list[OutputLog | None]:
        self.num_reads += 1
        return await super().read(requests)


@pytest.fixture
async def queue(redis_url: str, request: pytest.FixtureRequest) -> AsyncIterator[CountingQueue]:
    async with CountingQueue(redis_url, request.node.name) as queue:
        yield queue


@pytest.fixture
async def hub(queue: CountingQueue) -> AsyncIterator[FollowHub]:
    hub = FollowHub(queue)
    running = asyncio.create_task(hub.run())
    yield hub
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def lane_with_job(queue: JobQueue, job_id: str = "job") -> Lane:
    await queue.submit(JobSpec(job_id, "model", [1], SamplingParams(max_tokens=99)))
    lease = await queue.acquire(f"worker of {job_id}", "test", ttl_ms=60_000)
    assert lease is not None
    lane = Lane(queue, lease)
    await lane.claim()
    return lane


async def test_many_followers_are_woken_by_one_read(queue: CountingQueue, hub: FollowHub) -> None:
    lane = await lane_with_job(queue)
    waiting = [
        asyncio.create_task(hub.news([LogRequest("job", 0, 0)])) for _ in range(NUM_FOLLOWERS)
    ]
    await lane.commit("job", [7])
    for [output] in await asyncio.gather(*waiting):
        assert output is not None
        assert list(output.token_ids) == [7]
    assert queue.num_reads <= 5


async def test_nobody_is_read_for_whose_job_stands_still(
    queue: CountingQueue, hub: FollowHub
) -> None:
    quiet, busy = await lane_with_job(queue, "quiet"), await lane_with_job(queue, "busy")
    waiting = asyncio.create_task(hub.news([LogRequest("quiet", 0, 0)]))
    for offset in range(20):
        follower = asyncio.create_task(hub.news([LogRequest("busy", 0, offset)]))
        await busy.commit("busy", [offset])
        await follower
    assert not waiting.done()
    await quiet.commit("quiet", [], Finish("error", "why"))
    [output] = await waiting
    assert output is not None
    assert output.finish == Finish("error", "why")


async def test_an_unknown_job_is_news(hub: FollowHub) -> None:
    assert await hub.news([LogRequest("nobody", 0, 0)]) == [None]


async def test_a_log_that_cannot_be_read_is_nobody_elses_trouble(
    queue: CountingQueue, hub: FollowHub, redis_url: str, request: pytest.FixtureRequest
) -> None:
    names = [f"job {number}" for number in range(5)]
    lanes = [await lane_with_job(queue, name) for name in names]
    waiting = [asyncio.create_task(hub.news([LogRequest(name)])) for name in names]
    with Redis.from_url(redis_url) as redis:
        keys = Keys(request.node.name)
        redis.hset(keys.job(names[1]), "f0", '{"reason":"stop","from":"the future"}')
        redis.set(keys.lp(names[3], 0), "not a list")
    waiting.append(asyncio.create_task(hub.news([LogRequest(names[3], logprobs=True)])))
    for lane, name in zip(lanes, names, strict=True):
        if name != names[1]:
            await lane.commit(name, [7])
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(answers[1], Corrupt)
    assert "WRONGTYPE" in str(answers.pop())
    told = [answer[0] for answer in answers if isinstance(answer, list)]
    assert [output and list(output.token_ids) for output in told] == [[7]] * 4


async def test_a_hub_that_has_failed_keeps_nobody_waiting(
    queue: CountingQueue, redis_url: str, request: pytest.FixtureRequest
) -> None:
    await lane_with_job(queue)
    hub = FollowHub(queue)
    running = asyncio.create_task(hub.run())
    waiting = asyncio.create_task(hub.news([LogRequest("job")]))
    with Redis.from_url(redis_url) as redis:
        break_bell(redis, Keys(request.node.name))
    for news in (waiting, hub.news([LogRequest("job")])):
        with pytest.raises(RuntimeError, match="the log reader has failed"):
            await news
    with pytest.raises(RuntimeError, match="the doorbell's reader has failed"):
        await running
    with pytest.raises(RuntimeError, match="the log reader has failed"):
        await hub.news([LogRequest("job")])


async def test_a_follower_that_leaves_is_forgotten(queue: CountingQueue, hub: FollowHub) -> None:
    await lane_with_job(queue)
    waiting = asyncio.create_task(hub.news([LogRequest("job", 0, 0)]))
    while not hub._waiters:
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert not hub._waiters
    assert not hub._due
