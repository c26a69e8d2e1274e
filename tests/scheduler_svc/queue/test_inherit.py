"""What is claimed stays so when a worker changes hands, for the worker that it was claimed for."""

from __future__ import annotations

import asyncio

import pytest

from scheduler_svc.queue import Accused, Fenced, JobQueue, Lease, QueueLimits
from tests.scheduler_svc.queue.build import (
    APPLIED,
    ENDED,
    FINGERPRINT,
    claim_ids,
    row,
    submit,
    tokens_of,
    within,
)

INCARNATION = "incarnation"


async def taken(queue: JobQueue, holder: str = "me", incarnation: str = INCARNATION) -> Lease:
    lease = await queue.acquire("worker", holder, 60_000, {}, incarnation)
    assert lease is not None
    return lease


async def test_the_next_holder_commits_on_and_the_last_one_does_not(queue: JobQueue) -> None:
    first = await taken(queue)
    ids = await submit(queue, 2)
    await claim_ids(queue, first, 2)
    assert await queue.commit(first, [row(ids[0], 0, [1, 2])]) == [APPLIED]
    second = await taken(queue)
    assert second.num_inherited == 2
    # Nobody has said yet that it goes on with them.
    assert await queue.commit(second, [row(ids[0], 2, [3])]) == [ENDED]
    jobs = {job.spec.job_id: job for job in await queue.inherit(second, FINGERPRINT)}
    assert set(jobs) == set(ids)
    assert jobs[ids[0]].outputs[0].token_ids == (1, 2)
    assert await queue.commit(second, [row(ids[0], 2, [3])]) == [APPLIED]
    assert await tokens_of(queue, ids[0]) == (1, 2, 3)
    with pytest.raises(Fenced):
        await queue.commit(first, [row(ids[1], 0, [1])])


async def test_a_worker_that_began_anew_inherits_nothing(queue: JobQueue) -> None:
    first = await taken(queue)
    await submit(queue, 1)
    await claim_ids(queue, first, 1)
    second = await taken(queue, incarnation="another")
    assert (second.num_inherited, await queue.num_queued()) == (0, 1)
    assert await queue.inherit(second, FINGERPRINT) == []


async def test_what_a_failed_lane_had_does_not_go_on(queue: JobQueue) -> None:
    first = await taken(queue)
    ids = await submit(queue, 2)
    await claim_ids(queue, first, 2)
    await queue.strike(first, [Accused(i) for i in ids], "a bug")  # And it came to no release.
    second = await taken(queue)
    assert (second.num_inherited, await queue.num_queued()) == (0, 2)


async def test_what_has_ended_meanwhile_is_not_inherited(queue: JobQueue) -> None:
    first = await taken(queue)
    [victim, other] = await submit(queue, 2)
    await claim_ids(queue, first, 2)
    await queue.hand_over(first)
    assert await queue.cancel(victim)
    second = await taken(queue, holder="another")
    assert [job.spec.job_id for job in await queue.inherit(second, FINGERPRINT)] == [other]


async def test_what_has_a_rank_of_an_order_before_waits_again(queue: JobQueue) -> None:
    first = await taken(queue)
    [old, new] = await submit(queue, 2)
    await claim_ids(queue, first, 2)
    shard = queue._shard
    await shard.link.call("ZADD", shard.keys.unranked, 0, old)
    second = await taken(queue)
    assert [job.spec.job_id for job in await queue.inherit(second, FINGERPRINT)] == [new]
    assert await queue.num_queued() == 1


async def test_a_hand_over_is_heard_and_nothing_waits_again(queue: JobQueue) -> None:
    first = await taken(queue)
    await submit(queue, 1)
    await claim_ids(queue, first, 1)
    await queue.wait_for_hand_over(queue.num_handed_over, 0.2)  # The bell is listened to.
    seen = queue.num_handed_over
    waiting = asyncio.create_task(queue.wait_for_hand_over(seen, 60))
    assert await queue.hand_over(first)
    async with within():
        await waiting
    assert queue.num_handed_over == seen + 1
    assert (await queue.num_queued(), await queue.workers()) == (0, [])
    assert not (await queue.renew(first)).is_ours
    assert not await queue.hand_over(first)
    assert (await taken(queue, holder="another")).num_inherited == 1


async def test_what_nobody_takes_waits_again(redis_url: str, queue: JobQueue) -> None:
    limits = QueueLimits(lease_grace_s=0.0)
    async with JobQueue(redis_url, queue_model(queue), limits) as impatient:
        first = await taken(impatient)
        await submit(impatient, 1)
        await claim_ids(impatient, first, 1)
        await impatient.hand_over(first)
        async with within():
            while not await impatient.num_queued():
                await impatient.sweep()


def queue_model(queue: JobQueue) -> str:
    return queue._shard.keys.job("").removeprefix("ss:{").partition("}")[0]
