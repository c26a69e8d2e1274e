"""What was cached of a job's prompt is noted once, with the first token that it came to."""

from __future__ import annotations

from collections.abc import Sequence

from redis import Redis

from scheduler_svc.queue import JobQueue, Lease
from scheduler_svc.queue.keys import Keys
from stepserve.protocol.job import CommitRow
from tests.scheduler_svc.queue.build import (
    APPLIED,
    FINGERPRINT,
    STOP,
    lease_on,
    output,
    row,
    running,
    short,
)


async def noted(queue: JobQueue, job_id: str) -> int | None:
    job = await queue.job(job_id)
    assert job is not None
    return job.num_cached


async def commit(queue: JobQueue, lease: Lease, rows: Sequence[CommitRow], *counts: int) -> None:
    """Commit rows of outputs, of whose prompts so many tokens were cached."""
    cached = {(r.job_id, r.index): count for r, count in zip(rows, counts, strict=True)}
    assert await queue.commit(lease, rows, cached) == [APPLIED] * len(rows)


async def test_it_comes_with_the_first_token_and_stays(queue: JobQueue) -> None:
    lease = await lease_on(queue)
    job_id, other = await running(queue, lease), await running(queue, lease)
    assert await noted(queue, job_id) is None
    await commit(queue, lease, [row(other, 0, [7]), row(job_id, 0, [1])], 0, 32)
    assert [await noted(queue, each) for each in (job_id, other)] == [32, 0]
    assert (await output(queue, job_id)).num_cached is None, "it is told with the end"
    # Whoever goes on with it computes its prompt again, or not: that is no matter of the client's.
    await queue.requeue(lease, [job_id])
    another = await lease_on(queue, "another")
    [claimed] = await queue.claim(another, FINGERPRINT, 1)
    assert claimed.spec.job_id == job_id
    await commit(queue, another, [row(job_id, 1, [2], STOP)], 16)
    assert await noted(queue, job_id) == (await output(queue, job_id)).num_cached == 32


async def test_of_several_outputs_the_first_one_counts(queue: JobQueue) -> None:
    lease = await lease_on(queue)
    job_id = await running(queue, lease, n=2)
    await commit(queue, lease, [row(job_id, 0, [1], index=1)], 16)
    await commit(queue, lease, [row(job_id, 0, [1])], 48)
    assert await noted(queue, job_id) == 16


async def test_an_end_without_a_token_has_it_too(queue: JobQueue) -> None:
    lease = await lease_on(queue)
    job_id = await running(queue, lease)
    await commit(queue, lease, [row(job_id, 0, (), STOP)], 16)
    assert (await output(queue, job_id)).num_cached == 16


async def test_a_log_that_is_written_again_brings_it_along(
    queue: JobQueue, redis: Redis, model: str
) -> None:
    lease, keys = await lease_on(queue), Keys(model)
    job_id = await running(queue, lease)
    await commit(queue, lease, [row(job_id, 0, [1])], 16)
    redis.hdel(keys.job(job_id), "cached")
    redis.delete(keys.log(job_id, 0))
    assert await queue.commit(lease, [row(job_id, 1, [2])], {(job_id, 0): 16}) == [short(0)]
    await commit(queue, lease, [row(job_id, 0, [1, 2])], 16)
    assert await noted(queue, job_id) == 16


async def test_what_nobody_knew_is_not_known(queue: JobQueue, redis: Redis, model: str) -> None:
    lease = await lease_on(queue)
    job_id = await running(queue, lease)
    assert await queue.commit(lease, [row(job_id, 0, [1], STOP)]) == [APPLIED]
    assert (await output(queue, job_id)).num_cached is None
    redis.hset(Keys(model).job(job_id), "cached", "much")
    assert await noted(queue, job_id) is (await output(queue, job_id)).num_cached is None
