"""A job ends by its deadline or in time, never late and unsaid."""

from __future__ import annotations

import pytest
from redis import Redis

from scheduler_svc.queue import JobQueue
from scheduler_svc.queue.keys import Keys
from stepserve.protocol.job import CommitRow, Finish
from tests.scheduler_svc.queue.build import (
    APPLIED,
    ENDED,
    EXISTED,
    OVERDUE,
    STOP,
    claim_ids,
    lease_on,
    make_overdue,
    output,
    row,
    running,
    submit,
    tokens_of,
)


@pytest.mark.parametrize(
    "late",
    [
        row("", 1, [2]),
        row("", 1, [2], STOP),
        row("", 1, (), STOP),
        row("", 0, [1]),
        row("", 5, [9]),
    ],
    ids=["tokens", "its end", "a bare end", "again", "a gap"],
)
async def test_what_comes_late_ends_the_output(
    queue: JobQueue, redis: Redis, keys: Keys, late: CommitRow
) -> None:
    lease = await lease_on(queue)
    job_id, other = [await running(queue, lease, deadline_s=60.0) for _ in range(2)]
    assert await queue.commit(lease, [row(job_id, 0, [1])]) == [APPLIED]
    make_overdue(redis, keys, job_id)
    rows = [row(job_id, late.offset, late.token_ids, late.finish), row(other, 0, [1], STOP)]
    assert await queue.commit(lease, rows) == [ENDED, APPLIED]
    assert await queue.commit(lease, rows) == [ENDED, EXISTED]
    log = await output(queue, job_id)
    assert (log.token_ids, log.finish) == ((1,), OVERDUE)
    snapshot = await queue.job(job_id)
    assert snapshot is not None
    assert snapshot.state == "ended"
    assert redis.zcard(keys.deadlines) == 0
    assert await queue.claimed(lease) == frozenset()
    assert (await queue.sweep()).num_overdue == 0


async def test_an_end_in_time_stays_when_it_is_committed_again(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    lease = await lease_on(queue)
    job_id = await running(queue, lease, n=2, deadline_s=60.0)
    rows = [row(job_id, 0, [1], STOP)]
    assert await queue.commit(lease, rows) == [APPLIED]
    make_overdue(redis, keys, job_id)
    assert await queue.commit(lease, rows) == [EXISTED]
    assert (await output(queue, job_id)).finish == STOP
    assert (await output(queue, job_id, 1)).finish is None
    assert (await queue.sweep()).num_overdue == 1
    assert (await output(queue, job_id)).finish == STOP
    assert (await output(queue, job_id, 1)).finish == OVERDUE


async def test_an_overdue_job_is_not_claimed(queue: JobQueue, redis: Redis, keys: Keys) -> None:
    overdue, other = await submit(queue, 2, deadline_s=60.0)
    make_overdue(redis, keys, overdue)
    lease = await lease_on(queue)
    assert await claim_ids(queue, lease, 1) == [other]
    assert await claim_ids(queue, lease, 1) == []
    assert (await queue.sweep()).num_overdue == 1


async def test_a_lane_can_end_what_will_not_be_in_time(queue: JobQueue) -> None:
    lease = await lease_on(queue)
    job_id = await running(queue, lease, deadline_s=60.0)
    finish = Finish("deadline", "about 90 tokens more need 70 s")
    rows = [row(job_id, 0, [1]), row(job_id, 1, (), finish)]
    assert await queue.commit(lease, rows) == [APPLIED, APPLIED]
    assert await queue.commit(lease, rows[1:]) == [EXISTED]
    assert await tokens_of(queue, job_id) == (1,)
    assert (await output(queue, job_id)).finish == finish
