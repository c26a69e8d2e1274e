"""The right to drive a worker: one holder, epochs that only grow, nothing lost on the way."""

from __future__ import annotations

import asyncio

import pytest
from redis import Redis

from scheduler_svc.queue import Fenced, JobQueue, Lease, QueueLimits
from scheduler_svc.queue.keys import Keys
from tests.scheduler_svc.queue.build import (
    APPLIED,
    STOP,
    claim_ids,
    lease_on,
    row,
    running,
    submit,
    tokens_of,
    within,
)


async def take_over(queue: JobQueue, holder: str) -> Lease:
    """The lease on "worker", as soon as it has expired."""
    async with within():
        while (lease := await queue.acquire("worker", holder, 60_000)) is None:
            await asyncio.sleep(0.001)
    return lease


async def test_one_holder_at_a_time(queue: JobQueue) -> None:
    grants = await asyncio.gather(*(queue.acquire("worker", f"h{i}", 60_000) for i in range(20)))
    [lease] = [grant for grant in grants if grant is not None]
    assert await queue.acquire("worker", "another", 60_000) is None
    assert await queue.acquire("another worker", "another", 60_000) is not None
    assert await queue.release(lease)
    assert await queue.acquire("worker", "another", 60_000) is not None


async def test_takeover_requeues_every_claim_once_with_its_output(queue: JobQueue) -> None:
    old = await lease_on(queue, ttl_ms=1)
    ids = await submit(queue, 4)
    await claim_ids(queue, old, 3)
    rows = [row(ids[0], 0, [1, 2]), row(ids[1], 0, [9], STOP)]
    assert await queue.commit(old, rows) == [APPLIED, APPLIED]
    new = await take_over(queue, "new")
    assert new.epoch > old.epoch
    assert await queue.num_queued() == 3
    assert await claim_ids(queue, new, 9) == [ids[0], ids[2], ids[3]]
    assert await tokens_of(queue, ids[0]) == (1, 2)
    with pytest.raises(Fenced):
        await queue.commit(old, [row(ids[0], 2, [3])])
    assert not (await queue.renew(old)).is_ours
    assert not await queue.release(old)
    assert await queue.commit(new, [row(ids[0], 2, [3])]) == [APPLIED]


async def test_an_expired_lease_that_nobody_took_goes_on(queue: JobQueue) -> None:
    lease = await lease_on(queue, ttl_ms=1)
    job_id = await running(queue, lease)
    async with within():
        while await queue.workers():
            await asyncio.sleep(0.001)
    assert await queue.commit(lease, [row(job_id, 0, [1])]) == [APPLIED]
    lasting = Lease(lease.worker_id, lease.holder, lease.epoch, 60_000)
    assert (await queue.renew(lasting)).is_ours
    assert await queue.acquire("worker", "another", 60_000) is None


async def test_release_gives_back_what_is_claimed_and_fences(queue: JobQueue) -> None:
    lease = await lease_on(queue)
    job_id = await running(queue, lease)
    assert await queue.release(lease)
    with pytest.raises(Fenced):
        await queue.commit(lease, [row(job_id, 0, [1])])
    assert not (await queue.renew(lease)).is_ours
    assert await queue.num_queued() == 1


async def test_epochs_never_go_back_even_if_the_clock_does(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    lease = await lease_on(queue)
    ahead = lease.epoch + 10**12
    redis.hset(keys.lease("worker"), "epoch", ahead)
    again = await lease_on(queue)
    assert again.epoch == ahead + 1
    assert await queue.release(again)
    assert redis.ttl(keys.lease("worker")) > 0, "a worker that never comes back is forgotten"
    assert (await lease_on(queue)).epoch == ahead + 3
    assert redis.ttl(keys.lease("worker")) == -1


async def test_workers_are_those_with_good_leases(queue: JobQueue) -> None:
    assert await queue.workers() == []
    lease = await queue.acquire("a", "holder", 60_000, {"max_context": "512"})
    gone = await queue.acquire("b", "holder", 60_000)
    assert lease is not None
    assert gone is not None
    await queue.release(gone)
    [record] = await queue.workers()
    assert (record.worker_id, record.holder, record.epoch) == ("a", "holder", lease.epoch)
    assert record.info == {"max_context": "512"}


async def test_a_lane_tells_how_long_a_step_takes(queue: JobQueue) -> None:
    async def step_us() -> int:
        [record] = await queue.workers()
        return record.step_us

    lease = await lease_on(queue)
    assert await step_us() == 0
    assert (await queue.renew(lease, 12_000)).is_ours
    assert await step_us() == 12_000
    assert (await queue.renew(lease)).is_ours
    assert await step_us() == 0, "not known any more"
    assert (await queue.renew(lease, 12_000)).is_ours
    await lease_on(queue)
    assert await step_us() == 0, "it may be another model now"


async def test_jobs_of_a_worker_that_never_comes_back_wait_again(
    redis_url: str, model: str
) -> None:
    limits = QueueLimits(lease_grace_s=0.0)
    async with JobQueue(redis_url, model, limits) as queue:
        alive, dead = await lease_on(queue, "alive"), await lease_on(queue, "dead", ttl_ms=1)
        kept, lost = await running(queue, alive), await running(queue, dead)
        async with within():
            while (await queue.sweep()).num_given_up == 0:
                await asyncio.sleep(0.001)
        assert [job.spec.job_id for job in await queue.jobs(state="queued")] == [lost]
        assert [job.spec.job_id for job in await queue.jobs(state="running")] == [kept]
        assert not (await queue.renew(dead)).is_ours
        assert (await queue.sweep()).num_given_up == 0


async def test_a_lease_within_its_grace_is_left_alone(queue: JobQueue) -> None:
    lease = await lease_on(queue, ttl_ms=1)
    async with within():
        while await queue.workers():
            await asyncio.sleep(0.001)
    assert (await queue.sweep()).num_given_up == 0
    assert (await queue.renew(lease)).is_ours


@pytest.mark.parametrize(("worker", "holder"), [("", "holder"), ("worker", "")])
async def test_a_lease_needs_names(queue: JobQueue, worker: str, holder: str) -> None:
    with pytest.raises(ValueError, match="needs"):
        await queue.acquire(worker, holder, 1000)


@pytest.mark.parametrize(
    "broken",
    [
        {"info": "not json"},
        {"info": "[]"},
        {"info": '{"max_context": null}'},
        {"info": '{"max_context": "many"}'},
        {"info": '{"places": ""}'},
        {"epoch": "x"},
        {"expires": "soon"},
        {"ttl": "long"},
    ],
    ids=str,
)
async def test_a_lease_that_cannot_be_read_is_nobody_elses_trouble(
    queue: JobQueue,
    redis: Redis,
    keys: Keys,
    broken: dict[str, str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    await lease_on(queue, "broken")
    good = await lease_on(queue, "good")
    [name] = broken
    whole = redis.hget(keys.lease("broken"), name)
    redis.hset(keys.lease("broken"), mapping=broken)
    await submit(queue, 3)
    for _ in range(2):
        assert [worker.worker_id for worker in await queue.workers()] == ["good"]
        assert await queue.allowance(good, 9) == 3
        assert (await queue.attend("us", 60_000, [])).holders == {"good": good.holder}
    assert caplog.text.count("the lease of worker broken cannot be read") == 1
    redis.hset(keys.lease("broken"), name, whole)
    assert [worker.worker_id for worker in await queue.workers()] == ["broken", "good"]
