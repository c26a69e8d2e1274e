"""The committer against a real Redis that forgets: logs are written again from its memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
import redis

from scheduler_svc.core.events import Commit, Committed
from scheduler_svc.core.probation import Probation
from scheduler_svc.lane.committer import Committer
from scheduler_svc.lane.held_jobs import HeldJobs
from scheduler_svc.lane.loop import Inbox
from scheduler_svc.queue import Accused, JobQueue, Lease, LogRequest
from stepserve.protocol.job import CommitRow, Finish, JobSpec
from stepserve.protocol.sampling import Sampling


@pytest.fixture
async def queue(redis_url: str) -> AsyncIterator[JobQueue]:
    async with JobQueue(redis_url, f"committer-{uuid4().hex}") as queue:
        yield queue


@pytest.fixture
async def lease(queue: JobQueue) -> Lease:
    return await worker_lease(queue)


async def worker_lease(queue: JobQueue) -> Lease:
    lease = await queue.acquire("worker", "lane", 60_000)
    assert lease is not None
    return lease


async def submitted(queue: JobQueue, n: int = 1) -> str:
    job_id = uuid4().hex
    spec = JobSpec(job_id, "m", [1, 2], Sampling(max_tokens=100, n=n))
    await queue.submit(spec)
    return job_id


def row(job_id: str, offset: int, finish: Finish | None = None) -> CommitRow:
    return CommitRow(job_id, 0, offset, (100 + offset,), finish=finish)


async def log_of(queue: JobQueue, job_id: str) -> list[int]:
    [log] = await queue.read([LogRequest(job_id)])
    assert log is not None
    return list(log.token_ids)


def cut(redis_url: str, job_id: str, num_tokens: int) -> None:
    """Take the tail of a job's log away, as a failover would."""
    with redis.Redis.from_url(redis_url) as client:
        [key] = client.keys(f"*log:{job_id}:0")
        kept = client.getrange(key, 0, 4 * num_tokens - 1) if num_tokens else b""
        client.set(key, kept)


@pytest.mark.parametrize("is_claimed_again", [False, True])
async def test_a_log_that_lost_its_tail_is_refilled(
    queue: JobQueue, lease: Lease, redis_url: str, is_claimed_again: bool
) -> None:
    job_id = await submitted(queue)
    inbox = Inbox()
    held = HeldJobs()
    committer = Committer(queue, lease, inbox, held)
    claimed = await queue.claim(lease, "f", 1)
    held.take(claimed)
    for offset in range(5):
        await committer.perform(Commit(offset + 1, (row(job_id, offset),)))
    cut(redis_url, job_id, 2)
    if is_claimed_again:  # the queue lost the claim as well, and gives the job once more
        held.take(claimed)
    await committer.perform(Commit(6, (row(job_id, 5, Finish("stop")),)))
    assert await log_of(queue, job_id) == [100, 101, 102, 103, 104, 105]
    assert inbox.take() == [Committed(step) for step in range(1, 7)]
    assert held.unwritten_ids == frozenset(), "nothing is remembered of what has ended"


async def test_rows_of_a_job_that_a_client_ended_are_dropped(queue: JobQueue, lease: Lease) -> None:
    job_id = await submitted(queue)
    inbox = Inbox()
    held = HeldJobs()
    committer = Committer(queue, lease, inbox, held)
    held.take(await queue.claim(lease, "f", 1))
    await committer.perform(Commit(1, (row(job_id, 0),)))
    await queue.cancel(job_id)
    held.forget([job_id])
    await committer.perform(Commit(2, (row(job_id, 1),)))
    assert inbox.take()[-1] == Committed(2, ((job_id, 0),))
    assert await log_of(queue, job_id) == [100]


async def test_what_is_not_remembered_is_not_invented(
    queue: JobQueue, lease: Lease, redis_url: str
) -> None:
    job_id = await submitted(queue)
    inbox = Inbox()
    held = HeldJobs()
    committer = Committer(queue, lease, inbox, held)
    held.take(await queue.claim(lease, "f", 1))
    await committer.perform(Commit(1, (row(job_id, 0),)))
    held.forget([job_id])
    cut(redis_url, job_id, 0)
    await committer.perform(Commit(2, (row(job_id, 1),)))
    assert inbox.take()[-1] == Committed(2, ((job_id, 0),)), "the core lets go of it"
    assert await log_of(queue, job_id) == []


@pytest.mark.parametrize("is_stored_first", [False, True])
async def test_what_was_told_of_the_cache_outlives_a_failover(
    queue: JobQueue, lease: Lease, redis_url: str, is_stored_first: bool
) -> None:
    """Also where whoever stored the job has stored it again, as it was before it began."""
    job_id = await submitted(queue)
    held = HeldJobs()
    committer = Committer(queue, lease, Inbox(), held)
    held.take(await queue.claim(lease, "f", 1))
    held._cached[job_id, 0] = 0
    await committer.perform(Commit(1, (row(job_id, 0),)))
    told = await queue.job(job_id)
    assert told is not None
    assert told.num_cached == 0
    with redis.Redis.from_url(redis_url) as client:
        forget(client, queue, job_id)
    if is_stored_first:
        assert await queue._submitting.restore() == 1
    else:
        queue._submitting.forgotten(job_id)
    await committer.perform(Commit(2, (row(job_id, 1),)))
    await queue.claim(lease, "f", 1)
    begun_again = CommitRow(job_id, 0, 0, (100, 101), finish=Finish("stop"))
    await queue.commit(lease, [begun_again], {(job_id, 0): 32})
    now = await queue.job(job_id)
    [log] = await queue.read([LogRequest(job_id)])
    assert now is not None
    assert log is not None
    assert now.num_cached == log.num_cached == 0


@pytest.mark.parametrize("is_another_s", [False, True])
async def test_a_suspect_that_is_lost_in_its_trial_is_suspected_still(
    queue: JobQueue, lease: Lease, redis_url: str, is_another_s: bool
) -> None:
    """Nor is it cleared where another lease holds it by now."""
    job_id = await submitted(queue)
    await queue.claim(lease, "f", 1)
    await queue.strike(lease, [Accused(job_id)], "Boom")
    lease = await worker_lease(queue)
    held, probation = HeldJobs(), Probation(2)
    committer = Committer(queue, lease, Inbox(), held, probation.written)
    suspects = await queue.claim_suspects(lease, "f", 1)
    held.take(suspects.jobs)
    probation.begin(suspects.jobs)
    with redis.Redis.from_url(redis_url) as client:
        if is_another_s:
            client.hset(queue._shard.keys.job(job_id), "claim", "other:1")
        else:
            forget(client, queue, job_id)
    last = row(job_id, 0, Finish("stop"))
    await committer.perform(Commit(1, (last,)))
    assert not probation.is_on
    assert probation.passed() == []
    assert await queue.has_suspects() is not is_another_s, "it waits to be tried again"


def forget(client: redis.Redis, queue: JobQueue, job_id: str) -> None:
    """Take a job away as a failover would, which is noticed."""
    keys = queue._shard.keys
    client.delete(keys.job(job_id), keys.log(job_id, 0), keys.claims("worker"))
    client.zrem(keys.jobs, job_id)
    queue._mending._continuity.note({"run_id": "of the server before"})
