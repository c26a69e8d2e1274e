"""A lane takes those jobs first whose prefix it holds, within the order's slack."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from redis import Redis

from scheduler_svc.queue import JobQueue, Order
from scheduler_svc.queue.keys import Keys
from tests.scheduler_svc.queue.build import FINGERPRINT, claim_ids, lease_on, row, running, submit


class Prefixes:
    """Cached are as many tokens as the prompt's first says; remembers who asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, tuple[int, ...]]] = []

    def __call__(self, tenant: str, prompt_token_ids: Sequence[int]) -> int:
        self.asked.append((tenant, tuple(prompt_token_ids)))
        return prompt_token_ids[0]


async def waiting(queue: JobQueue, redis: Redis, keys: Keys, cached: Sequence[int]) -> list[str]:
    """Jobs with so much cached, a tenth of a second behind each other."""
    ids = [(await submit(queue, 1, prompt=(n, 7), tenant="t"))[0] for n in cached]
    redis.zadd(keys.queue, {job_id: 1000 + 0.1 * at for at, job_id in enumerate(ids)})
    return ids


async def test_the_most_cached_go_first(queue: JobQueue, redis: Redis, keys: Keys) -> None:
    ids = await waiting(queue, redis, keys, [0, 16, 0, 32, 16])
    prefer, lease = Prefixes(), await lease_on(queue)
    for expected in ([3, 1], [4, 0]):
        jobs = await queue.claim(lease, FINGERPRINT, 2, prefer=prefer)
        assert [job.spec.job_id for job in jobs] == [ids[at] for at in expected]
    assert set(prefer.asked) == {("t", (n, 7)) for n in (0, 16, 32)}


async def test_nobody_is_overtaken_from_further_behind_than_the_slack(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    ids = await waiting(queue, redis, keys, [0] * 10 + [16] * 5)
    lease, taken = await lease_on(queue), []
    while more := await queue.claim(lease, FINGERPRINT, 1, prefer=Prefixes()):
        taken += [ids.index(job.spec.job_id) for job in more]
    assert sorted(taken) == list(range(15))
    for number, at in enumerate(taken):
        assert all(later - at <= 10 for later in taken[:number])
    assert taken[0] == 10, "a second behind the first"
    assert taken[1] == 0


async def test_what_fits_whole_is_not_looked_at(queue: JobQueue, redis: Redis, keys: Keys) -> None:
    ids = await waiting(queue, redis, keys, [0, 5, 9])
    prefer, lease = Prefixes(), await lease_on(queue)
    jobs = await queue.claim(lease, FINGERPRINT, 3, prefer=prefer)
    assert [job.spec.job_id for job in jobs] == ids
    assert prefer.asked == []
    assert await queue.claim(lease, FINGERPRINT, 3, prefer=prefer) == []


async def test_at_most_sixteen_prompts_are_read(queue: JobQueue) -> None:
    await submit(queue, 40, prompt=(1,))
    prefer = Prefixes()
    await queue.claim(await lease_on(queue), FINGERPRINT, 1, prefer=prefer)
    assert len(prefer.asked) <= 16


async def test_what_may_not_be_taken_is_not_preferred(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    lease = await lease_on(queue)
    other = await running(queue, lease, prompt=(99,))
    await queue.commit(lease, [row(other, 0, [1])])
    await queue.requeue(lease, [other])
    ids = await waiting(queue, redis, keys, [0, 16, 32])
    redis.zadd(keys.queue, {other: 1000.05})
    [job] = await queue.claim(lease, "new", 1, max_rank=1000.15, prefer=Prefixes())
    assert job.spec.job_id == ids[1]
    assert await claim_ids(queue, lease, 9, "new") == [ids[0], ids[2]]


async def test_nothing_is_hashed_where_all_that_may_go_first_are_taken(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    lease = await lease_on(queue)
    other = await running(queue, lease, prompt=(99,))
    await queue.commit(lease, [row(other, 0, [1])])
    await queue.requeue(lease, [other])
    ids = await waiting(queue, redis, keys, [0, 16, 32, 64])
    redis.zadd(keys.queue, {other: 1000.05, ids[2]: 1002.0, ids[3]: 1003.0})
    prefer = Prefixes()
    jobs = await queue.claim(lease, "new", 2, prefer=prefer)
    assert [job.spec.job_id for job in jobs] == ids[:2]
    assert prefer.asked == []


async def test_a_job_of_a_version_that_knew_no_ranks_has_no_tenant(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    ids = await waiting(queue, redis, keys, [0, 16])
    for job_id in ids:
        redis.hdel(keys.job(job_id), "tenant", "max_tokens", "priority")
    prefer = Prefixes()
    [job] = await queue.claim(await lease_on(queue), FINGERPRINT, 1, prefer=prefer)
    assert job.spec.job_id == ids[1]
    assert {tenant for tenant, _ in prefer.asked} == {""}


@pytest.mark.parametrize(("distance", "first"), [(2048.0, 1), (2049.0, 0)])
async def test_under_fair_the_slack_is_virtual_tokens(
    redis_url: str, model: str, redis: Redis, keys: Keys, distance: float, first: int
) -> None:
    async with JobQueue(redis_url, model, order=Order(policy="fair")) as queue:
        ids = await waiting(queue, redis, keys, [0, 16])
        redis.zadd(keys.queue, {ids[0]: 10.0, ids[1]: 10.0 + distance})
        [job] = await queue.claim(await lease_on(queue), FINGERPRINT, 1, prefer=Prefixes())
    assert job.spec.job_id == ids[first]
