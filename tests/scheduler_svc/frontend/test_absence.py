"""A job whose client is gone is cancelled, though not at the first try."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
from redis import Redis

from scheduler_svc.frontend import absence
from scheduler_svc.frontend.absence import Absence
from scheduler_svc.queue import JobQueue
from scheduler_svc.queue.keys import Keys
from scheduler_svc.queue.presence import Presence
from stepserve.protocol.job import Finish, JobSpec
from stepserve.protocol.sampling import Sampling
from tests.scheduler_svc.queue.proxy import LossyProxy

WAIT_S = 10.0


@pytest.fixture
async def proxy(redis_url: str) -> AsyncIterator[LossyProxy]:
    async with LossyProxy(redis_url) as proxy:
        yield proxy


@pytest.fixture
def model() -> str:
    return f"model-{uuid.uuid4().hex}"


@pytest.fixture
async def queue(proxy: LossyProxy, model: str) -> AsyncIterator[JobQueue]:
    async with JobQueue(proxy.url, model) as queue:
        await queue.submit(JobSpec("job", model, [1], Sampling(max_tokens=9)))
        yield queue


async def leave(away: Absence) -> None:
    """Cut off the job's only stream, and wait until nothing is left to do for it."""
    with pytest.raises(asyncio.CancelledError):
        async with away.stream("job", watch=True):
            raise asyncio.CancelledError
    assert away.num_away == 1
    async with asyncio.timeout(WAIT_S):
        while away.num_away:
            await asyncio.sleep(0.001)


async def test_it_is_tried_again_while_redis_is_away(
    queue: JobQueue, proxy: LossyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(absence, "RETRY_INTERVAL_S", 0.001)
    proxy.num_losses = 9
    away = Absence(queue, 0.0)
    await leave(away)
    assert proxy.num_losses == 0
    job = await queue.job("job")
    assert job is not None
    assert job.outputs[0].finish == Finish("cancelled", "its client went away")
    assert not away._watched


def told_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the kinds of the errors that were logged."""
    kinds = [record.exc_info and record.exc_info[0] for record in caplog.records]
    return [kind.__name__ for kind in kinds if kind]


async def test_patience_has_an_end(
    queue: JobQueue,
    proxy: LossyProxy,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(absence, "PATIENCE_S", 0.0)
    proxy.num_losses = 10**6
    away = Absence(queue, 0.0)
    await leave(away)
    assert told_of(caplog) == ["Unavailable"]
    assert not away._watched


async def test_a_job_that_can_never_be_cancelled_is_forgotten(
    queue: JobQueue, redis_url: str, model: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Redis.from_url(redis_url) as redis:
        redis.set(Keys(model).job("job"), "not a hash")
    away = Absence(queue, 0.0)
    await leave(away)
    assert told_of(caplog) == ["Corrupt"]
    assert not away._watched


@pytest.fixture
async def replicas(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Absence, Absence]]:
    """Two of them, without a grace; they are never silent for long."""
    monkeypatch.setattr(absence, "PRESENCE_TTL_S", 0.3)
    both = Absence(queue, 0.0), Absence(queue, 0.0)
    tasks = [asyncio.create_task(replica.run()) for replica in both]
    yield both
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for replica in both:
        await replica.close()


async def has_ended(queue: JobQueue) -> bool:
    job = await queue.job("job")
    assert job is not None
    return job.state == "ended"


async def test_a_stream_on_another_replica_counts(
    queue: JobQueue, replicas: tuple[Absence, Absence]
) -> None:
    here, there = replicas
    async with there.stream("job", watch=True):
        await leave(here)
        assert not await has_ended(queue), "it is followed there"
        await asyncio.sleep(0.4)  # longer than a word of a replica is good for
        await leave(here)
        assert not await has_ended(queue), "it still is"
    await leave(there)
    assert await has_ended(queue), "nobody follows it any more"


async def test_a_word_that_is_on_its_way_does_not_follow_what_was_left(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The replica says what it follows just as the last stream is cut off."""
    here, there = Absence(queue, 0.0), Absence(queue, 0.0)
    monkeypatch.setattr(absence, "PRESENCE_TTL_S", 0.01)
    say, begun, may_go, said = here._presence.follow, *(asyncio.Event() for _ in range(3))

    async def slowly(job_ids: Sequence[str]) -> None:
        begun.set()
        await may_go.wait()
        await say(job_ids)
        said.set()

    telling = asyncio.create_task(here.run())
    async with there.stream("job", watch=True):
        with suppress(asyncio.CancelledError):
            async with here.stream("job", watch=True):
                monkeypatch.setattr(here, "_presence", SlowPresence(here._presence, slowly))
                await asyncio.wait_for(begun.wait(), WAIT_S)
                raise asyncio.CancelledError
        asyncio.get_running_loop().call_later(0.05, may_go.set)
        async with asyncio.timeout(WAIT_S):
            await said.wait()
            while here.num_away:
                await asyncio.sleep(0.001)
        telling.cancel()
    await leave(there)
    assert await has_ended(queue), "nobody follows it any more"


@dataclass
class SlowPresence:
    """A replica's words, of which those that it follows a job take their time."""

    words: Presence
    follow: Callable[[Sequence[str]], Awaitable[None]]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.words, name)


async def test_a_replica_that_is_dead_follows_nothing(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(absence, "PRESENCE_TTL_S", 0.2)
    dead, here = Absence(queue, 0.0), Absence(queue, 0.0)
    async with dead.stream("job", watch=True):
        await leave(here)
        assert not await has_ended(queue)
        async with asyncio.timeout(WAIT_S):
            while not await has_ended(queue):
                await leave(here)


async def test_a_replica_that_stops_follows_nothing(
    queue: JobQueue, replicas: tuple[Absence, Absence]
) -> None:
    here, there = replicas
    async with there.stream("job", watch=True):
        await there.close()
        await leave(here)
        assert await has_ended(queue)


async def test_the_grace_begins_when_the_last_stream_is_cut_off(queue: JobQueue) -> None:
    here, there = Absence(queue, 0.3), Absence(queue, 0.6)
    begun_s = asyncio.get_running_loop().time()
    await asyncio.gather(leave(here), leave(there))
    assert asyncio.get_running_loop().time() - begun_s >= 0.6
    assert await has_ended(queue)


async def test_a_word_from_before_the_clock_went_back_does_not_count(
    queue: JobQueue, redis_url: str, model: str
) -> None:
    dead, here = Absence(queue, 0.0), Absence(queue, 0.0)
    async with dead.stream("job", watch=True):
        with Redis.from_url(redis_url) as redis:
            [(member, _)] = redis.zrange(Keys(model).followers("job"), 0, -1, withscores=True)
            redis.zincrby(Keys(model).followers("job"), 3_600_000, member)
        await leave(here)
        assert await has_ended(queue)


async def test_others_are_told_again_after_whatever_went_wrong(
    queue: JobQueue,
    redis_url: str,
    model: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(absence, "PRESENCE_TTL_S", 0.03)
    away, followers = Absence(queue, 1.0), Keys(model).followers("job")
    telling = asyncio.create_task(away.run())
    with Redis.from_url(redis_url) as redis:
        async with away.stream("job", watch=True), asyncio.timeout(WAIT_S):
            redis.delete(followers)
            redis.set(followers, "no followers")
            while "others are not told what is followed here" not in caplog.text:
                await asyncio.sleep(0.001)
            redis.delete(followers)
            while not redis.exists(followers):
                await asyncio.sleep(0.001)
    telling.cancel()
    await asyncio.gather(telling, return_exceptions=True)


async def test_streams_that_begin_at_once_are_one_word(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, words, may_go = Absence(queue, 0.0), list[set[str]](), asyncio.Event()
    say = here._presence.follow

    async def noted(job_ids: Sequence[str]) -> None:
        words.append(set(job_ids))
        await may_go.wait()
        await say(job_ids)

    async def stream(job_id: str) -> None:
        async with here.stream(job_id, watch=True):
            assert any(job_id in word for word in words)

    monkeypatch.setattr(here, "_presence", SlowPresence(here._presence, noted))
    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as group:
        for number in range(9):
            group.create_task(stream(f"job {number}"))
        left = group.create_task(stream("left"))
        while not words:
            await asyncio.sleep(0)
        left.cancel()
        may_go.set()
    assert words[:2] == [{"job 0"}, {f"job {number}" for number in range(1, 9)}]
    assert not any(words[2:]), "all was said"
