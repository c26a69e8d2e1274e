"""Short ways to say what the queue's tests say all the time."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from redis import Redis

from scheduler_svc.queue import JobQueue, Lease, LogRequest, QueueLimits, RowAnswer, RowKind
from scheduler_svc.queue.keys import Keys
from stepserve.protocol.job import CommitRow, Finish, JobSpec, OutputLog
from stepserve.protocol.sampling import Sampling

FINGERPRINT = "fingerprint"
STOP = Finish("stop")
OVERDUE = Finish("deadline", "the job's deadline has passed")
APPLIED = RowAnswer(RowKind.APPLIED)
EXISTED = RowAnswer(RowKind.EXISTED)
ENDED = RowAnswer(RowKind.ENDED)
UNKNOWN = RowAnswer(RowKind.UNKNOWN)

_numbers = itertools.count()


def short(length: int) -> RowAnswer:
    return RowAnswer(RowKind.SHORT, length)


def spec(prompt: Sequence[int] = (1, 2, 3), n: int = 1, logprobs: int = -1, **more: Any) -> JobSpec:
    """A job with an id of its own."""
    sampling = Sampling(max_tokens=more.pop("max_tokens", 100), n=n, logprobs=logprobs)
    job_id = more.pop("job_id", f"job-{next(_numbers):05}")
    return JobSpec(job_id, "model", tuple(prompt), sampling, **more)


async def submit(queue: JobQueue, count: int, **more: Any) -> list[str]:
    return [(await queue.submit(spec(**more))).job_id for _ in range(count)]


async def lease_on(queue: JobQueue, worker: str = "worker", ttl_ms: int = 60_000) -> Lease:
    lease = await queue.acquire(worker, f"holder of {worker}", ttl_ms)
    assert lease is not None
    return lease


async def running(queue: JobQueue, lease: Lease, **more: Any) -> str:
    """A job that was submitted and claimed."""
    [job_id] = await submit(queue, 1, **more)
    assert await claim_ids(queue, lease, 1) == [job_id]
    return job_id


async def claim_ids(
    queue: JobQueue, lease: Lease, count: int, fingerprint: str = FINGERPRINT
) -> list[str]:
    return [job.spec.job_id for job in await queue.claim(lease, fingerprint, count)]


def make_overdue(redis: Redis, keys: Keys, job_id: str) -> None:
    """As if the deadline that it was submitted with had passed."""
    redis.hset(keys.job(job_id), "deadline", "1.000000")
    redis.zadd(keys.deadlines, {job_id: 1.0}, xx=True)


_TIMES = ("arrival", "deadline", "ended", "turn")


def move_times(redis: Redis, keys: Keys, by_s: float) -> None:
    """Every stored time by so much: as if the clock had gone the other way."""
    for index in (keys.jobs, keys.deadlines, keys.ended, keys.stranded):
        _move_scores(redis, index, by_s)
    _move_scores(redis, keys.workers, by_s * 1000)
    for job_id in redis.zrange(keys.jobs, 0, -1):
        job = keys.job(job_id.decode())
        for name in _TIMES:
            if (time := redis.hget(job, name)) is not None:
                redis.hset(job, name, f"{float(time) + by_s:.6f}")
    workers = [worker.decode() for worker in redis.zrange(keys.workers, 0, -1)]
    for worker in workers:
        redis.hincrby(keys.lease(worker), "expires", int(by_s * 1000))
    if redis.hget(keys.order, "policy") != b"fair":
        for index in (keys.queue, *map(keys.claims, workers)):
            _move_scores(redis, index, by_s)


def _move_scores(redis: Redis, index: str, by: float) -> None:
    for member in redis.zrange(index, 0, -1):
        redis.zincrby(index, by, member)


def row(
    job_id: str, offset: int, tokens: Sequence[int] = (), finish: Finish | None = None, **more: Any
) -> CommitRow:
    return CommitRow(job_id, more.pop("index", 0), offset, tuple(tokens), finish=finish, **more)


async def output(queue: JobQueue, job_id: str, index: int = 0) -> OutputLog:
    [log] = await queue.read([LogRequest(job_id, index, 0, True)])
    assert log is not None
    return log


async def tokens_of(queue: JobQueue, job_id: str, index: int = 0) -> tuple[int, ...]:
    return tuple((await output(queue, job_id, index)).token_ids)


@asynccontextmanager
async def another(queue_url: str, model: str, limits: QueueLimits) -> AsyncIterator[JobQueue]:
    async with JobQueue(queue_url, model, limits) as queue:
        yield queue


@asynccontextmanager
async def within(seconds: float = 10.0) -> AsyncIterator[None]:
    """Fails where something that must happen does not."""
    async with asyncio.timeout(seconds):
        yield
