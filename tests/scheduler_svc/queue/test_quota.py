"""What an API key may have holds over all replicas, and nothing is counted twice."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator

import pytest
from redis import Redis

from scheduler_svc.queue import JobQueue, Order, Quota, QuotaExceeded, Standing
from scheduler_svc.queue.keys import Keys
from stepserve.protocol.job import Finish
from tests.scheduler_svc.queue.build import (
    APPLIED,
    STOP,
    claim_ids,
    lease_on,
    make_overdue,
    row,
    spec,
)
from tests.scheduler_svc.queue.proxy import LossyProxy

REQUESTS = Quota("aaaaaa", requests_per_minute=3)
TOKENS = Quota("bbbbbb", tokens_per_minute=200)
JOBS = Quota("cccccc", max_jobs=2)


@pytest.fixture
async def other(redis_url: str, model: str) -> AsyncIterator[JobQueue]:
    """Another replica's."""
    async with JobQueue(redis_url, model) as queue:
        yield queue


async def ask(queue: JobQueue, quota: Quota, **more: object) -> tuple[str, Standing]:
    """Submit a job of three prompt tokens and up to 100 more."""
    submitted = await queue.submit(spec(**more), quota=quota)
    assert submitted.standing is not None
    return submitted.job_id, submitted.standing


async def refused(queue: JobQueue, quota: Quota, **more: object) -> QuotaExceeded:
    with pytest.raises(QuotaExceeded) as told:
        await ask(queue, quota, **more)
    return told.value


def stored(redis: Redis, keys: Keys, quota: Quota) -> tuple[float, float, float, float]:
    """Requests and tokens left, when, and jobs."""
    requests, tokens, at, jobs = struct.unpack("<dddd", redis.hget(keys.quotas, quota.key_id))
    return requests, tokens, at, jobs


def let_pass(redis: Redis, keys: Keys, quota: Quota, seconds: float) -> None:
    """As if the last request had been so long ago."""
    requests, tokens, at, jobs = stored(redis, keys, quota)
    redis.hset(
        keys.quotas, quota.key_id, struct.pack("<dddd", requests, tokens, at - seconds, jobs)
    )


async def test_requests_are_bounded_over_replicas(
    queue: JobQueue, other: JobQueue, redis: Redis, keys: Keys
) -> None:
    left = [(await ask(each, REQUESTS))[1].requests for each in (queue, other, queue)]
    assert left == pytest.approx([2, 1, 0], abs=0.5)
    error = await refused(other, REQUESTS)
    assert "3 requests a minute" in str(error)
    assert 15_000 < error.retry_after_ms <= 20_000
    let_pass(redis, keys, REQUESTS, error.retry_after_ms / 1000)
    await ask(other, REQUESTS)
    await refused(queue, REQUESTS)
    let_pass(redis, keys, REQUESTS, 3600)
    assert (await ask(queue, REQUESTS))[1].requests == pytest.approx(2, abs=0.01)


async def test_nothing_is_kept_of_what_is_refused(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    for _ in range(3):
        await ask(queue, REQUESTS)
    before = sorted(redis.keys(f"*{keys.queue.removesuffix('queue')}*"))
    await refused(queue, REQUESTS, job_id="refused", idempotency_key="again")
    assert sorted(redis.keys(f"*{keys.queue.removesuffix('queue')}*")) == before
    assert await queue.job("refused") is None


async def test_other_keys_and_no_key_are_not_bounded_by_it(queue: JobQueue) -> None:
    for _ in range(3):
        await ask(queue, REQUESTS)
    await ask(queue, Quota("dddddd", requests_per_minute=3))
    assert (await queue.submit(spec())).standing is None


async def test_tokens_are_taken_by_expectation_and_given_back_at_the_end(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    lease = await lease_on(queue)
    job_id, standing = await ask(queue, TOKENS)
    assert standing.tokens == pytest.approx(200 - 103)
    assert (await refused(queue, TOKENS)).standing is not None
    assert await claim_ids(queue, lease, 1) == [job_id]
    assert await queue.commit(lease, [row(job_id, 0, range(10), STOP)]) == [APPLIED]
    assert stored(redis, keys, TOKENS)[1] == pytest.approx(200 - 13, abs=1)


async def test_more_than_was_expected_is_taken_besides(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    lease = await lease_on(queue)
    for _ in range(8):  # so many short ones tell what to expect
        job_id = (await queue.submit(spec())).job_id
        await claim_ids(queue, lease, 1)
        await queue.commit(lease, [row(job_id, 0, range(2), STOP)])
    job_id, standing = await ask(queue, TOKENS, max_tokens=1000)
    assert standing.tokens == pytest.approx(200 - 5)
    await claim_ids(queue, lease, 1)
    await queue.commit(lease, [row(job_id, 0, range(400), STOP)])
    assert stored(redis, keys, TOKENS)[1] == pytest.approx(200 - 403, abs=1)
    assert (await refused(queue, TOKENS)).retry_after_ms > 60_000
    let_pass(redis, keys, TOKENS, 120)
    await ask(queue, TOKENS)


async def test_a_job_larger_than_a_minute_waits_for_a_whole_one(queue: JobQueue) -> None:
    _, standing = await ask(queue, TOKENS, max_tokens=1000)
    assert standing.tokens == pytest.approx(200 - 1003)
    await refused(queue, TOKENS, max_tokens=1)


async def test_jobs_at_once_are_bounded_until_they_end_by_whatever(
    queue: JobQueue, other: JobQueue, redis: Redis, keys: Keys
) -> None:
    lease = await lease_on(queue)
    two_outputs, _ = await ask(queue, JOBS, n=2)
    cancelled, _ = await ask(other, JOBS)
    assert "2 jobs at once" in str(await refused(queue, JOBS))
    await other.cancel(cancelled)
    await other.cancel(cancelled)
    overdue, _ = await ask(queue, JOBS, deadline_s=1000.0)
    await refused(other, JOBS)
    make_overdue(redis, keys, overdue)
    await queue.sweep()
    await claim_ids(queue, lease, 1)
    assert await queue.commit(lease, [row(two_outputs, 0, [1], STOP)]) == [APPLIED]
    assert stored(redis, keys, JOBS)[3] == 1
    assert await queue.commit(lease, [row(two_outputs, 0, [1], STOP, index=1)]) == [APPLIED]
    assert stored(redis, keys, JOBS)[3] == 0


async def test_a_cancelled_job_gives_back_what_it_has_not_used(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    lease = await lease_on(queue)
    job_id, _ = await ask(queue, TOKENS)
    await claim_ids(queue, lease, 1)
    await queue.commit(lease, [row(job_id, 0, range(10))])
    await queue.cancel(job_id)
    assert stored(redis, keys, TOKENS)[1] == pytest.approx(200 - 13, abs=1)


async def test_a_repeat_counts_once(
    queue: JobQueue, redis_url: str, model: str, redis: Redis, keys: Keys
) -> None:
    both = Quota("eeeeee", requests_per_minute=10, max_jobs=5)
    first, _ = await ask(queue, both, idempotency_key="once")
    repeated = await queue.submit(spec(idempotency_key="once"), quota=both)
    assert (repeated.job_id, repeated.existed, repeated.standing) == (first, True, None)
    async with LossyProxy(redis_url) as proxy, JobQueue(proxy.url, model) as lossy:
        await lossy.ping()
        proxy.num_losses = 1
        await lossy.submit(spec(), quota=both)
    requests, _, _, jobs = stored(redis, keys, both)
    assert requests == pytest.approx(8, abs=0.5)
    assert jobs == 2


async def test_a_count_that_is_wrong_is_right_once_nobody_has_a_job(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    job_id, _ = await ask(queue, JOBS)
    redis.hset(keys.quotas, JOBS.key_id, struct.pack("<dddd", 0, 0, 0, 7))
    await refused(queue, JOBS)
    await queue.cancel(job_id)
    await ask(queue, JOBS)
    assert stored(redis, keys, JOBS)[3] == 1


async def test_a_clock_that_goes_back_keeps_nobody_waiting(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    for _ in range(3):
        await ask(queue, REQUESTS)
    let_pass(redis, keys, REQUESTS, -7200)
    assert (await ask(queue, REQUESTS))[1].requests == pytest.approx(2)


async def test_what_is_stored_and_is_no_quota_is_a_new_one(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    redis.hset(keys.quotas, REQUESTS.key_id, "broken")
    assert (await ask(queue, REQUESTS))[1].requests == 2


async def test_quotas_of_keys_that_are_gone_are_forgotten(
    queue: JobQueue, redis: Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler_svc.queue.ranking._MAX_TENANTS", 1)
    gone = Quota("gggggg", requests_per_minute=3)
    job_id, _ = await ask(queue, gone)
    await ask(queue, JOBS)
    for quota in (gone, JOBS):
        let_pass(redis, keys, quota, 7200)
    await queue.cancel(job_id)
    await queue.sweep()
    assert redis.hkeys(keys.quotas) == [JOBS.key_id.encode()]


async def test_a_bound_that_comes_later_begins_with_all_of_it(queue: JobQueue) -> None:
    await ask(queue, JOBS)
    later = Quota(JOBS.key_id, requests_per_minute=3, tokens_per_minute=1000, max_jobs=2)
    _, standing = await ask(queue, later)
    assert (standing.requests, standing.tokens) == pytest.approx((2, 1000 - 103))


async def test_a_key_s_weight_goes_before_its_tenant_s(redis_url: str, model: str) -> None:
    order = Order(policy="fair", tenant_weights={"t": 1.0})
    async with JobQueue(redis_url, model, order=order) as queue:
        lease = await lease_on(queue)
        heavy, light = Quota("ffffff", weight=10.0), Quota("111111", weight=0.1)
        for tenant, quota in (("light", light), ("heavy", heavy)):
            for number in range(3):
                named = spec(job_id=f"{tenant}{number}", tenant=tenant)
                await queue.submit(named, quota=quota)
        # All of the heavy one's reservations together are less than the light one's first.
        line = await claim_ids(queue, lease, 6)
        assert line.index("heavy2") < line.index("light1")


async def test_ends_that_go_wrong_are_nobody_s_quota(
    queue: JobQueue, keys: Keys, redis: Redis
) -> None:
    """A record that is broken keeps its job from nothing."""
    job_id, _ = await ask(queue, JOBS)
    redis.hset(keys.quotas, JOBS.key_id, "broken")
    assert await queue.cancel(job_id)
    found = await queue.job(job_id)
    assert found is not None
    assert found.outputs[0].finish == Finish("cancelled")


async def test_a_job_that_is_stored_again_counts_and_is_not_refused(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    """What a server that was promoted lacks was accepted once, whatever its key may have now."""
    kept, lost = [(await ask(queue, JOBS))[0] for _ in range(2)]
    redis.delete(keys.job(lost))
    redis.zrem(keys.queue, lost)
    redis.zrem(keys.jobs, lost)
    await refused(queue, JOBS)
    assert await queue._submitting.restore() == 1
    assert {job.spec.job_id for job in await queue.jobs()} == {kept, lost}
    assert stored(redis, keys, JOBS)[3] == 3
