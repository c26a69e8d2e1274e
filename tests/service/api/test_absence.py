"""A job whose client is gone is cancelled, though not at the first try."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest
from redis import Redis

from protos.job import Finish, JobSpec, SamplingParams
from scheduler_svc.api import absence
from scheduler_svc.api.absence import Absence
from scheduler_svc.queue import JobQueue
from scheduler_svc.queue.keys import Keys
from tests.service.queue.proxy import LossyProxy

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
        await queue.submit(JobSpec("job", model, [1], SamplingParams(max_tokens=9)))
        yield queue


async def leave(away: Absence) -> None:
    """Cut off the job's only stream, and wait until nothing is left to do for it."""
    with pytest.raises(asyncio.CancelledError), away.stream("job", watch=True):
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
    assert told_of(caplog) == ["ResponseError"]
    assert not away._watched
