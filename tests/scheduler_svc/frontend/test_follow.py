"""One reader of Redis for all followers of a process."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from redis import Redis

from scheduler_svc.frontend.follow import MAX_BYTES_PER_READ, Follower, FollowHub
from scheduler_svc.frontend.output import OutputStream
from scheduler_svc.queue import Corrupt, JobQueue, LogRequest
from scheduler_svc.queue.keys import Keys
from stepserve.protocol.job import Finish, JobSpec, OutputLog
from stepserve.protocol.sampling import Sampling
from tests.scheduler_svc.api.served import Lane, break_bell

NUM_FOLLOWERS = 40
ENDLESS_S = 1e6


class CountingQueue(JobQueue):
    """Counts how often logs are read, and of how many outputs at most."""

    num_reads = most_requests = 0

    async def read(self, requests: Sequence[LogRequest]) -> list[OutputLog | None]:
        self.num_reads += 1
        self.most_requests = max(self.most_requests, len(requests))
        return await super().read(requests)


@pytest.fixture
async def queue(redis_url: str, request: pytest.FixtureRequest) -> AsyncIterator[CountingQueue]:
    async with CountingQueue(redis_url, request.node.name) as queue:
        yield queue


@asynccontextmanager
async def running(queue: JobQueue, window_s: float) -> AsyncIterator[FollowHub]:
    hub = FollowHub(queue, window_s)
    task = asyncio.create_task(hub.run())
    # The bell's first word is that anything may have moved: from then on it tells what did.
    await anext(queue.follow())
    yield hub
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def hub(queue: CountingQueue) -> AsyncIterator[FollowHub]:
    async with running(queue, 0.0) as hub:
        yield hub


async def news(hub: FollowHub, request: LogRequest) -> list[OutputLog | None]:
    with hub.follow(request.job_id) as follower:
        return await follower.news([request])


async def tokens(follower: Follower, offset: int) -> list[int]:
    """Wait for what a follower that is at ``offset`` is told."""
    [output] = await follower.news([LogRequest("job", 0, offset, max_tokens=100)])
    assert output is not None
    return list(output.token_ids)


async def lane_with_job(queue: JobQueue, job_id: str = "job") -> Lane:
    await queue.submit(JobSpec(job_id, "model", [1], Sampling(max_tokens=99)))
    lease = await queue.acquire(f"worker of {job_id}", "test", ttl_ms=60_000)
    assert lease is not None
    lane = Lane(queue, lease)
    await lane.claim()
    return lane


async def until_heard(hub: FollowHub, queue: JobQueue) -> None:
    """Wait until the hub knows of all that was committed before."""
    await queue.submit(JobSpec("sign", "model", [1], Sampling(max_tokens=9)))
    with hub.follow("sign") as follower:
        ended = asyncio.create_task(follower.news([LogRequest("sign", 0, 1)]))
        await queue.cancel("sign")
        await ended


async def test_many_followers_are_woken_by_one_read(queue: CountingQueue, hub: FollowHub) -> None:
    lane = await lane_with_job(queue)
    waiting = [
        asyncio.create_task(news(hub, LogRequest("job", 0, 0))) for _ in range(NUM_FOLLOWERS)
    ]
    await lane.commit("job", [7])
    for [output] in await asyncio.gather(*waiting):
        assert output is not None
        assert list(output.token_ids) == [7]
    assert queue.num_reads <= 5


async def test_one_read_has_a_few_prompts_log_probabilities(
    queue: CountingQueue, hub: FollowHub
) -> None:
    lane = await lane_with_job(queue)
    largest = LogRequest("job", num_bytes=MAX_BYTES_PER_READ // 4)
    waiting = [asyncio.create_task(news(hub, largest)) for _ in range(NUM_FOLLOWERS)]
    await lane.commit("job", [7])
    for [output] in await asyncio.gather(*waiting):
        assert output is not None
        assert list(output.token_ids) == [7]
    assert queue.most_requests == 4


def test_what_is_read_with_an_outputs_first_token_is_known_before() -> None:
    sampling = Sampling(max_tokens=9, logprobs=0, prompt_logprobs=3)
    spec = JobSpec("job", "model", [1] * 100, sampling)
    assert OutputStream(spec, 0, 0, None).request().num_bytes == 100 * 4 * 8
    assert OutputStream(spec, 0, 5, None).request().num_bytes == 0, "it asks for none"
    bare = replace(spec, sampling=replace(sampling, prompt_logprobs=-1))
    assert OutputStream(bare, 0, 0, None).request().num_bytes == 0


async def test_nobody_is_read_for_whose_job_stands_still(
    queue: CountingQueue, hub: FollowHub
) -> None:
    quiet, busy = await lane_with_job(queue, "quiet"), await lane_with_job(queue, "busy")
    waiting = asyncio.create_task(news(hub, LogRequest("quiet", 0, 0)))
    for offset in range(20):
        follower = asyncio.create_task(news(hub, LogRequest("busy", 0, offset)))
        await busy.commit("busy", [offset])
        await follower
    assert not waiting.done()
    await quiet.commit("quiet", [], Finish("error", "why"))
    [output] = await waiting
    assert output is not None
    assert output.finish == Finish("error", "why")


async def test_an_unknown_job_is_news(hub: FollowHub) -> None:
    assert await news(hub, LogRequest("nobody", 0, 0)) == [None]


async def test_a_log_that_cannot_be_read_is_nobody_elses_trouble(
    queue: CountingQueue, hub: FollowHub, redis_url: str, request: pytest.FixtureRequest
) -> None:
    names = [f"job {number}" for number in range(5)]
    lanes = [await lane_with_job(queue, name) for name in names]
    waiting = [asyncio.create_task(news(hub, LogRequest(name))) for name in names]
    with Redis.from_url(redis_url) as redis:
        keys = Keys(request.node.name)
        redis.hset(keys.job(names[1]), "f0", '{"reason":"stop","from":"the future"}')
        redis.set(keys.lp(names[3], 0), "not a list")
    waiting.append(asyncio.create_task(news(hub, LogRequest(names[3], logprobs=True))))
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
    hub = FollowHub(queue, 0.0)
    task = asyncio.create_task(hub.run())
    waiting = asyncio.create_task(news(hub, LogRequest("job")))
    with Redis.from_url(redis_url) as redis:
        break_bell(redis, Keys(request.node.name))
    for asked in (waiting, news(hub, LogRequest("job"))):
        with pytest.raises(RuntimeError, match="the log reader has failed"):
            await asked
    with pytest.raises(RuntimeError, match="the doorbell's reader has failed"):
        await task
    with pytest.raises(RuntimeError, match="the log reader has failed"):
        await news(hub, LogRequest("job"))


async def test_a_follower_that_leaves_is_forgotten(queue: CountingQueue, hub: FollowHub) -> None:
    await lane_with_job(queue)
    waiting = asyncio.create_task(news(hub, LogRequest("job", 0, 0)))
    while not hub._followers:
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert not hub._followers
    assert hub._due.wait_s(0.0) == math.inf


async def test_the_first_token_and_the_end_pass_a_window_that_never_ends(
    queue: CountingQueue,
) -> None:
    lane = await lane_with_job(queue)
    async with running(queue, ENDLESS_S) as hub:
        with hub.follow("job") as follower, hub.follow("job") as other:
            firsts = [asyncio.create_task(tokens(each, 0)) for each in (follower, other)]
            await lane.commit("job", [10])
            assert await asyncio.gather(*firsts) == [[10], [10]]
            rests = [asyncio.create_task(tokens(each, 1)) for each in (follower, other)]
            for token_id in range(11, 15):
                await lane.commit("job", [token_id])
            await until_heard(hub, queue)
            num_reads = queue.num_reads
            assert not any(rest.done() for rest in rests)
            await lane.commit("job", [15], Finish("length"))
            assert await asyncio.gather(*rests) == [[11, 12, 13, 14, 15]] * 2
            assert queue.num_reads == num_reads + 1


async def test_what_a_client_ends_passes_the_window(queue: CountingQueue) -> None:
    lane = await lane_with_job(queue)
    async with running(queue, ENDLESS_S) as hub:
        with hub.follow("job") as follower:
            first = asyncio.create_task(tokens(follower, 0))
            await lane.commit("job", [10])
            assert await first == [10]
            rest = asyncio.create_task(tokens(follower, 1))
            await lane.commit("job", [11])
            await queue.cancel("job")
            assert await rest == [11]


async def test_who_is_behind_need_not_wait_for_the_window(queue: CountingQueue) -> None:
    lane = await lane_with_job(queue)
    await lane.commit("job", [1] * 99)
    async with running(queue, ENDLESS_S) as hub:
        with hub.follow("job") as follower:
            sizes, offset = [], 0
            while offset < 90:
                request = LogRequest("job", 0, offset, max_tokens=30)
                [output] = await follower.news([request])
                assert output is not None
                sizes.append(len(output.token_ids))
                offset += sizes[-1]
    assert sizes == [30, 30, 30]


async def test_without_a_window_every_token_is_told(queue: CountingQueue, hub: FollowHub) -> None:
    lane = await lane_with_job(queue)
    with hub.follow("job") as follower:
        for offset in range(5):
            told = asyncio.create_task(tokens(follower, offset))
            await lane.commit("job", [offset])
            assert await told == [offset]
