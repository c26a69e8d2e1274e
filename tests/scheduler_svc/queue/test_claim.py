"""Jobs are claimed first come first served, each by one lane, and given back whole."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis import Redis

from scheduler_svc.queue import Fenced, JobQueue
from scheduler_svc.queue.keys import Keys
from stepserve.protocol.errors import Unavailable
from tests.scheduler_svc.queue.build import (
    APPLIED,
    ENDED,
    STOP,
    UNKNOWN,
    claim_ids,
    lease_on,
    output,
    row,
    running,
    spec,
    submit,
)


async def test_first_come_first_served(queue: JobQueue) -> None:
    ids = await submit(queue, 5)
    lease = await lease_on(queue)
    assert await claim_ids(queue, lease, 2) == ids[:2]
    assert await claim_ids(queue, lease, 9) == ids[2:]
    assert await claim_ids(queue, lease, 9) == []


async def test_two_lanes_never_get_the_same_job(queue: JobQueue) -> None:
    ids = await submit(queue, 120)

    async def take(worker: str) -> list[str]:
        lease, taken = await lease_on(queue, worker), []
        while more := await claim_ids(queue, lease, 3):
            taken += more
        return taken

    first, second = await asyncio.gather(take("a"), take("b"))
    assert first
    assert second
    assert sorted(first + second) == ids


async def test_given_back_a_job_stands_where_it_stood_with_its_output(queue: JobQueue) -> None:
    ids = await submit(queue, 3)
    lease = await lease_on(queue)
    await claim_ids(queue, lease, 2)
    await queue.commit(lease, [row(ids[1], 0, [7, 8])])
    assert await queue.requeue(lease, [ids[1], ids[0], "unknown", ids[2]]) == 2
    jobs = await queue.claim(lease, "fingerprint", 3)
    assert [job.spec.job_id for job in jobs] == ids
    assert [job.outputs[0].token_ids for job in jobs] == [(), (7, 8), ()]


async def test_rows_of_a_job_that_was_given_back_are_ignored(queue: JobQueue) -> None:
    lease = await lease_on(queue)
    job_id = await running(queue, lease)
    await queue.requeue(lease, [job_id])
    assert await queue.commit(lease, [row(job_id, 0, [1])]) == [UNKNOWN]
    other = await lease_on(queue, "other")
    assert await claim_ids(queue, other, 1) == [job_id]
    assert await queue.commit(lease, [row(job_id, 0, [1])]) == [ENDED]
    assert (await output(queue, job_id)).token_ids == ()


async def test_a_job_with_output_goes_on_only_on_the_same_fingerprint(queue: JobQueue) -> None:
    old = await lease_on(queue, "old")
    started = [await running(queue, old) for _ in range(3)]
    fresh = await running(queue, old)
    await queue.commit(old, [row(job_id, 0, [1]) for job_id in started])
    await queue.release(old)
    new = await lease_on(queue, "new")
    assert await claim_ids(queue, new, 9, "another") == [fresh]
    assert await claim_ids(queue, new, 9, "another") == []
    assert await claim_ids(queue, await lease_on(queue, "old"), 9) == started


async def test_jobs_for_another_fingerprint_hide_none_behind_them(queue: JobQueue) -> None:
    old = await lease_on(queue, "old")
    await submit(queue, 300)
    started = await claim_ids(queue, old, 300)
    await queue.commit(old, [row(job_id, 0, [1]) for job_id in started])
    await queue.release(old)
    late = await submit(queue, 2)
    assert await claim_ids(queue, await lease_on(queue, "new"), 2, "another") == late


async def test_they_hide_none_of_the_same_rank(queue: JobQueue, redis: Redis, keys: Keys) -> None:
    old = await lease_on(queue, "old")
    started = await submit(queue, 150)
    assert await claim_ids(queue, old, 150) == started
    await queue.commit(old, [row(job_id, 0, [1]) for job_id in started])
    await queue.release(old)
    late = await submit(queue, 2)
    redis.zadd(keys.queue, dict.fromkeys([*started, *late], 7.0))
    new = await lease_on(queue, "new")
    jobs = await queue.claim(new, "another", 1, prefer=lambda *_: 0)
    assert [job.spec.job_id for job in jobs] == late[:1]
    assert await claim_ids(queue, new, 9, "another") == late[1:]


async def test_no_more_are_claimed_than_asked_for_after_a_lost_answer(
    queue: JobQueue, redis_url: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await submit(queue, 3)
    lease, faster = await lease_on(queue), await lease_on(queue, "faster")
    claiming = queue._claiming
    claim = claiming._claim

    async def lose(*wish: Any) -> Any:
        assert await claim_ids(queue_of_other, faster, 1) == ids[:1]
        await claim(*wish)
        raise Unavailable("the answer was lost")

    async with JobQueue(redis_url, model) as queue_of_other:
        monkeypatch.setattr(claiming, "_claim", lose)
        with pytest.raises(Unavailable):
            await queue.claim(lease, "fingerprint", 1, prefer=lambda *_: 0)
        monkeypatch.undo()
        await queue_of_other.release(faster)
    assert await claim_ids(queue, lease, 1) == [ids[1]]
    assert await claim_ids(queue, lease, 9) == [ids[0], ids[2]]


@pytest.mark.parametrize("rank", [float("inf"), 1e300])
async def test_without_a_bound_every_rank_is_claimed(
    queue: JobQueue, redis: Redis, keys: Keys, rank: float
) -> None:
    ids = await submit(queue, 1)
    redis.zadd(keys.queue, dict.fromkeys(ids, rank))
    assert await claim_ids(queue, await lease_on(queue), 1) == ids


async def test_finished_outputs_of_a_claimed_job_come_with_it(queue: JobQueue) -> None:
    lease = await lease_on(queue)
    job_id = await running(queue, lease, n=2)
    rows = [row(job_id, 0, [5], STOP, index=1), row(job_id, 0, [4])]
    assert await queue.commit(lease, rows) == [APPLIED, APPLIED]
    await queue.requeue(lease, [job_id])
    [job] = await queue.claim(lease, "fingerprint", 1)
    assert [(log.token_ids, log.finish) for log in job.outputs] == [((4,), None), ((5,), STOP)]


async def test_a_lane_learns_what_is_claimed_for_it(queue: JobQueue) -> None:
    lease, other = await lease_on(queue), await lease_on(queue, "another")
    assert await queue.claimed(lease) == frozenset()
    held, ended = [await running(queue, lease) for _ in range(2)]
    await running(queue, other)
    await queue.commit(lease, [row(ended, 0, [1], STOP)])
    assert await queue.claimed(lease) == {held}


async def test_a_lost_lease_claims_and_gives_back_nothing(queue: JobQueue) -> None:
    lease = await lease_on(queue)
    held = await running(queue, lease)
    [waiting] = await submit(queue, 1)
    await queue.acquire("worker", lease.holder, 60_000)
    with pytest.raises(Fenced):
        await queue.claim(lease, "fingerprint", 1)
    with pytest.raises(Fenced):
        await queue.requeue(lease, [held])
    with pytest.raises(Fenced):
        await queue.claimed(lease)
    assert await queue.num_queued() == 2
    assert await claim_ids(queue, await lease_on(queue), 5) == [held, waiting]


async def test_a_job_that_redis_lost_is_dropped_from_the_queue(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    lost, kept = await submit(queue, 2)
    redis.delete(keys.job(lost))
    assert await claim_ids(queue, await lease_on(queue), 2) == [kept]
    assert await queue.num_queued() == 0


async def test_a_job_that_cannot_be_read_ends_with_an_error(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    asked = spec()
    await queue.submit(asked)
    [good] = await submit(queue, 1)
    stored = redis.hget(keys.job(asked.job_id), "spec")
    redis.hset(keys.job(asked.job_id), "spec", stored.replace(b"{", b'{"from_the_future":1,', 1))
    assert await claim_ids(queue, await lease_on(queue), 2) == [good]
    finish = (await output(queue, asked.job_id)).finish
    assert finish is not None
    assert finish.reason == "error"


async def test_a_job_whose_output_cannot_be_read_ends(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    lease = await lease_on(queue)
    broken, good = [await running(queue, lease) for _ in range(2)]
    await queue.commit(lease, [row(job_id, 0, [1]) for job_id in (broken, good)])
    await queue.requeue(lease, [broken, good])
    redis.append(keys.log(broken, 0), b"?")
    assert await claim_ids(queue, lease, 2) == [good]
    assert [job.state for job in await queue.jobs()] == ["running", "ended"]
