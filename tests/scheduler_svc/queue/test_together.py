"""Submits that come at once go to Redis together, and each is answered for itself."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from redis import Redis

from scheduler_svc.queue import Corrupt, JobQueue, QueueLimits, Submitted
from scheduler_svc.queue.keys import Keys, idempotency_digest
from scheduler_svc.queue.link import Full
from scheduler_svc.queue.together import MAX_BYTES, MAX_TOGETHER
from stepserve.protocol.errors import Exhausted
from tests.scheduler_svc.queue.build import FINGERPRINT, claim_ids, lease_on, spec, submit

NUM_JOBS = 2 * MAX_TOGETHER


def num_calls(queue: JobQueue) -> int:
    return sum(queue._shard.link.call_s.counts)


async def test_a_burst_takes_a_few_round_trips_and_keeps_its_order(queue: JobQueue) -> None:
    await submit(queue, 1)
    before = num_calls(queue)
    asked = [spec() for _ in range(NUM_JOBS)]
    answers = await asyncio.gather(*map(queue.submit, asked))
    assert [answer.job_id for answer in answers] == [job.job_id for job in asked]
    assert num_calls(queue) - before <= 3
    claimed = await claim_ids(queue, await lease_on(queue), NUM_JOBS + 1)
    assert claimed[1:] == [job.job_id for job in asked]


async def test_what_is_wrong_with_one_is_no_other_ones_trouble(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    await submit(queue, 1)
    redis.lpush(keys.idem(idempotency_digest("t", "broken")), "no string")
    broken = spec(tenant="t", idempotency_key="broken")
    asked = [spec(), broken, *(spec() for _ in range(5))]
    answers = await asyncio.gather(*map(queue.submit, asked), return_exceptions=True)
    assert isinstance(answers.pop(1), Corrupt)
    assert all(isinstance(answer, Submitted) and not answer.existed for answer in answers)
    assert await queue.num_queued() == 1 + len(answers)


async def test_where_there_was_room_for_some_each_learns_what_became_of_its_own(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    await submit(queue, 1)
    link = queue._shard.link
    pipeline = link.pipeline

    async def full_at_the_end(commands: Sequence[Any]) -> list[Any]:
        await pipeline(commands[:3])
        raise Full("no room for the others")

    monkeypatch.setattr(link, "pipeline", full_at_the_end)
    asked = [spec() for _ in range(5)]
    answers = await asyncio.gather(*map(queue.submit, asked))
    assert [answer.job_id for answer in answers] == [job.job_id for job in asked]
    assert await queue.num_queued() == 6


async def test_large_jobs_do_not_go_together(queue: JobQueue) -> None:
    await submit(queue, 1)
    before = num_calls(queue)
    prompt = range(MAX_BYTES // 4)
    await asyncio.gather(*(queue.submit(spec(prompt=prompt)) for _ in range(3)))
    assert num_calls(queue) - before == 3


async def test_a_server_that_was_started_again_learns_the_script(
    queue: JobQueue, redis: Redis
) -> None:
    await submit(queue, 1)
    redis.script_flush()
    answers = await asyncio.gather(*(queue.submit(spec()) for _ in range(5)))
    assert not any(answer.existed for answer in answers)


async def test_who_does_not_wait_any_more_keeps_nobody_waiting(queue: JobQueue) -> None:
    await submit(queue, 1)
    waiting = [asyncio.create_task(queue.submit(spec())) for _ in range(5)]
    await asyncio.sleep(0)
    waiting[2].cancel()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(answers.pop(2), asyncio.CancelledError)
    assert all(isinstance(answer, Submitted) for answer in answers)
    assert len(await queue.claim(await lease_on(queue), FINGERPRINT, 9)) in (5, 6)


@pytest.mark.parametrize("queue_is_full", [False, True])
async def test_each_is_held_to_the_bound_of_the_queue(
    redis_url: str, model: str, queue_is_full: bool
) -> None:
    limits = QueueLimits(max_queued_jobs=3 if queue_is_full else 9)
    async with JobQueue(redis_url, model, limits) as queue:
        await queue.adopt_order()
        answers = await asyncio.gather(
            *(queue.submit(spec()) for _ in range(6)), return_exceptions=True
        )
        refused = [isinstance(answer, Exhausted) for answer in answers]
        assert refused == [False] * 3 + [queue_is_full] * 3
