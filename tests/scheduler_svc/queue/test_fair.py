"""Tenants have a model's time by weight, in tokens, whatever they send."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator

import pytest
from redis import Redis

from scheduler_svc.queue import JobQueue, Lease, Order, ranking
from scheduler_svc.queue.keys import Keys
from stepserve.protocol.errors import Unavailable
from tests.scheduler_svc.queue.build import (
    APPLIED,
    EXISTED,
    FINGERPRINT,
    STOP,
    claim_ids,
    lease_on,
    row,
    running,
    submit,
)
from tests.scheduler_svc.queue.proxy import LossyProxy

FAIR = Order(policy="fair", tenant_weights={"heavy": 2.0})


@pytest.fixture
async def queue(redis_url: str, model: str) -> AsyncIterator[JobQueue]:
    async with JobQueue(redis_url, model, order=FAIR) as queue:
        yield queue


class Counters:
    """What is stored of tenants."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys

    def __getitem__(self, tenant: str) -> float:
        return float(self._redis.hget(self._keys.counters, tenant) or 0.0)

    @property
    def virtual_time(self) -> float:
        return float(self._redis.get(self._keys.vtime) or 0.0)


@pytest.fixture
def counters(redis: Redis, keys: Keys) -> Counters:
    return Counters(redis, keys)


async def serve(queue: JobQueue, lease: Lease, num_tokens: int) -> str:
    """The first in line, from its first to its last token; answers whose it was."""
    [job] = await queue.claim(lease, FINGERPRINT, 1)
    rows = [row(job.spec.job_id, 0, range(num_tokens), STOP)]
    assert await queue.commit(lease, rows) == [APPLIED]
    return job.spec.tenant


async def test_two_backlogged_tenants_are_served_by_their_weights(queue: JobQueue) -> None:
    await submit(queue, 40, tenant="light")
    await submit(queue, 40, tenant="heavy")
    lease = await lease_on(queue)
    served: Counter[str] = Counter()
    for _ in range(45):
        served[await serve(queue, lease, 100)] += 1
        assert abs(served["heavy"] - 2 * served["light"]) <= 2, "within a job's size"
    assert served["heavy"] == 30


async def test_tenants_who_never_came_before_starve_nobody(
    queue: JobQueue, counters: Counters
) -> None:
    """Each stands at the virtual time; it passes the other's tag after 64 of their jobs."""
    lease = await lease_on(queue)
    await submit(queue, 2, tenant="old")
    assert await serve(queue, lease, 100) == "old"
    assert counters.virtual_time == 203 / 64
    for number in range(63):
        await submit(queue, 1, tenant=f"new{number}")
        assert await serve(queue, lease, 100) == f"new{number}"
    await submit(queue, 1, tenant="late")
    assert await serve(queue, lease, 100) == "old"


async def test_the_virtual_time_moves_by_what_is_reserved_over_the_weight(
    queue: JobQueue, counters: Counters
) -> None:
    lease = await lease_on(queue)
    job_id = await running(queue, lease, tenant="heavy", n=3)
    assert counters.virtual_time == 3 * 203 / 2 / 64
    await queue.commit(lease, [row(job_id, 0, [1], STOP)])
    await queue.requeue(lease, [job_id])
    assert await claim_ids(queue, lease, 1) == [job_id]
    assert counters.virtual_time == (3 + 2) * 203 / 2 / 64, "of outputs that are open"


async def test_what_is_used_counts_not_what_was_asked_for(queue: JobQueue) -> None:
    """Both ask for 100 tokens a job; one's outputs are five times as long."""
    used: Counter[str] = Counter()
    lease = await lease_on(queue)
    await submit(queue, 2, tenant="a")
    await submit(queue, 2, tenant="b")
    for _ in range(120):
        [job] = await queue.claim(lease, FINGERPRINT, 1)
        tenant, num_tokens = job.spec.tenant, 50 if job.spec.tenant == "a" else 10
        await queue.commit(lease, [row(job.spec.job_id, 0, range(num_tokens), STOP)])
        used[tenant] += 3 + 2 * num_tokens
        await submit(queue, 1, tenant=tenant)
    assert used["a"] == pytest.approx(used["b"], rel=0.15)


async def test_an_idle_tenant_gains_no_credit(queue: JobQueue) -> None:
    lease = await lease_on(queue)
    await submit(queue, 1, tenant="idle")
    await serve(queue, lease, 100)
    await submit(queue, 30, tenant="busy")
    for _ in range(20):
        await serve(queue, lease, 100)
    await submit(queue, 10, tenant="idle")
    served = Counter([await serve(queue, lease, 100) for _ in range(10)])
    assert abs(served["idle"] - served["busy"]) <= 2


async def test_a_flood_delays_another_tenant_by_what_is_in_service(queue: JobQueue) -> None:
    await submit(queue, 200, tenant="flood")
    lease = await lease_on(queue)
    in_service = await claim_ids(queue, lease, 7)
    assert len(in_service) == 7
    [single] = await submit(queue, 1, tenant="other")
    assert await claim_ids(queue, lease, 1) == [single]


async def test_each_executed_token_is_charged_once(
    redis_url: str, model: str, queue: JobQueue, counters: Counters
) -> None:
    lease = await lease_on(queue)
    job_id = await running(queue, lease, tenant="a", max_tokens=2)
    assert counters["a"] == 3 + 2 * 2
    steps = [[row(job_id, 0, [0, 1])], [row(job_id, 2, [2, 3])], [row(job_id, 4, [4])]]
    for rows, counter in zip(steps, (7, 11, 13), strict=True):
        assert await queue.commit(lease, rows) == [APPLIED]
        assert counters["a"] == counter
        assert await queue.commit(lease, rows) == [EXISTED]
        assert counters["a"] == counter
    async with LossyProxy(redis_url) as proxy, JobQueue(proxy.url, model) as lossy:
        await lossy.renew(lease)
        proxy.num_losses = 3
        rows = [row(job_id, 5, [5], STOP)]
        with pytest.raises(Unavailable):
            await lossy.commit(lease, rows)
        assert await lossy.commit(lease, rows) == [EXISTED]
    assert counters["a"] == 15


async def test_an_output_gives_back_what_it_did_not_use(
    queue: JobQueue, counters: Counters
) -> None:
    lease = await lease_on(queue)
    job_id = await running(queue, lease, tenant="heavy", n=3)
    assert counters["heavy"] == 3 * 203 / 2
    rows = [row(job_id, 0, [1], STOP), row(job_id, 0, [1, 2], index=1)]
    for _ in range(2):
        await queue.commit(lease, rows)
        assert counters["heavy"] == (5 + 2 * 203) / 2
    await queue.cancel(job_id)
    assert counters["heavy"] == (5 + 7 + 3) / 2
    assert not await queue.cancel(job_id)
    [waiting] = await submit(queue, 1, tenant="b")
    await queue.cancel(waiting)
    assert counters["b"] == counters.virtual_time, "what nobody has begun costs nothing"


async def test_only_fair_pays_for_counters(redis_url: str, model: str, counters: Counters) -> None:
    async with JobQueue(redis_url, model) as queue:
        lease = await lease_on(queue)
        await submit(queue, 1, tenant="a")
        await serve(queue, lease, 200)
    assert (counters["a"], counters.virtual_time) == (0.0, 0.0)


async def test_the_number_of_tenants_remembered_is_bounded(
    queue: JobQueue, redis: Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "_MAX_TENANTS", 3)
    lease = await lease_on(queue)
    for number in range(8):
        await submit(queue, 1 + number % 4, tenant=f"t{number}")
    while await queue.num_queued():
        await serve(queue, lease, 100)
    await submit(queue, 2, tenant="waits")
    assert redis.hlen(keys.counters) == 9
    await queue.sweep()
    assert redis.hlen(keys.counters) <= 3
    assert redis.hexists(keys.counters, "waits"), "its counter is the highest"
    assert set(redis.hkeys(keys.lengths)) == {b"all", b"of:t3", b"of:t7", b"of:t2"}
