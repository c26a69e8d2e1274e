"""Another order is adopted: nobody is forgotten, whatever his rank was made of."""

from __future__ import annotations

import itertools

import pytest
from redis import Redis

from scheduler_svc.order import Policy
from scheduler_svc.queue import JobQueue, Order, Renewal, ranking
from scheduler_svc.queue.keys import Keys
from tests.scheduler_svc.queue.build import (
    APPLIED,
    FINGERPRINT,
    STOP,
    claim_ids,
    lease_on,
    row,
    running,
    submit,
)

POLICIES: tuple[Policy, ...] = ("fcfs", "priority", "fair")


@pytest.mark.parametrize(("before", "after"), [*itertools.permutations(POLICIES, 2)])
async def test_a_change_of_policy_starves_nobody(
    redis_url: str, model: str, redis: Redis, keys: Keys, before: Policy, after: Policy
) -> None:
    async with JobQueue(redis_url, model, order=Order(policy=before)) as old:
        early = await submit(old, 6, tenant="a")
        held = await claim_ids(old, await lease_on(old), 2)
        async with JobQueue(redis_url, model, order=Order(policy=after)) as new:
            await new.adopt_order()
            assert redis.zcard(keys.unranked) == 0
            # The old process goes on: all rank by the stored order.
            late = [(await submit(queue, 1, tenant="b"))[0] for queue in (old, new) * 3]
            lease = await lease_on(new)
            jobs = await new.claim(lease, FINGERPRINT, 99)
            assert {job.spec.job_id for job in jobs} == {*early, *late}
            assert [job.rank for job in jobs] == sorted(job.rank for job in jobs)
            if after == "fair":
                tenants = [job.spec.tenant for job in jobs]
                assert sorted(tenants[:6]) == ["a"] * 3 + ["b"] * 3, "by turns"
            else:
                assert [job.spec.job_id for job in jobs[:6]] == early
            assert set(held) < set(early)
            rows = [row(job.spec.job_id, 0, [1], STOP) for job in jobs]
            await new.commit(lease, rows)
    assert redis.exists(keys.counters) == (after == "fair")


async def test_a_change_that_was_interrupted_is_gone_on_with(
    redis_url: str, model: str, redis: Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "_PAGE", 4)
    monkeypatch.setattr(ranking, "_MAX_PAGES", 2)
    async with (
        JobQueue(redis_url, model) as old,
        JobQueue(redis_url, model, order=Order(policy="fair")) as new,
    ):
        ids = await submit(old, 30)
        held = await claim_ids(old, await lease_on(old), 15)
        await new.adopt_order()
        assert redis.zcard(keys.unranked) == 22
        await old.cancel(ids[20])
        redis.delete(keys.job(ids[21]))
        moved = await claim_ids(new, await lease_on(new, "another"), 3)
        await lease_on(old)  # what was held waits again
        left = [22]
        while left[-1]:
            await old.sweep()
            left.append(redis.zcard(keys.unranked))
        assert len(left) == 4
        jobs = await new.claim(await lease_on(new, "another"), FINGERPRINT, 99)
    ranks = {job.spec.job_id: job.rank for job in jobs}
    assert set(ranks) == {*ids} - {ids[20], ids[21]}
    assert set(held) | set(moved) <= set(ranks)
    assert max(ranks.values()) < 1e6, "tags, not times"


async def test_what_has_ended_is_not_reserved_again(
    redis_url: str, model: str, redis: Redis, keys: Keys
) -> None:
    async with (
        JobQueue(redis_url, model) as old,
        JobQueue(redis_url, model, order=Order(policy="fair")) as new,
    ):
        lease = await lease_on(old)
        job_id = await running(old, lease, n=3, tenant="t")
        await old.commit(lease, [row(job_id, 0, [1], STOP), row(job_id, 0, [1], index=1)])
        await new.adopt_order()
        assert float(redis.hget(keys.counters, "t")) == 2 * 203
        rows = [row(job_id, 1, [], STOP, index=1), row(job_id, 0, [1, 2], STOP, index=2)]
        assert await new.commit(lease, rows) == [APPLIED] * 2
        assert float(redis.hget(keys.counters, "t")) == 5 + 7


async def test_jobs_of_a_version_that_knew_no_ranks_are_ranked_and_served(
    redis_url: str, model: str, redis: Redis, keys: Keys
) -> None:
    async with JobQueue(redis_url, model) as old:
        ids = await submit(old, 2, tenant="t")
        for job_id in ids:
            redis.hdel(keys.job(job_id), "tenant", "max_tokens", "priority")
        redis.delete(keys.order)
    for policy in POLICIES:
        async with JobQueue(redis_url, model, order=Order(policy=policy)) as queue:
            await queue.adopt_order()
            assert redis.zcard(keys.unranked) == 0
    async with JobQueue(redis_url, model) as queue:
        lease = await lease_on(queue)
        assert sorted(await claim_ids(queue, lease, 9)) == ids
        assert await queue.commit(lease, [row(i, 0, [1], STOP) for i in ids]) == [APPLIED] * 2


async def test_the_same_order_again_changes_nothing(
    redis_url: str, model: str, redis: Redis, keys: Keys
) -> None:
    async with JobQueue(redis_url, model, order=Order(policy="fair")) as queue:
        await queue.adopt_order()
        await submit(queue, 3)
        before = redis.zrange(keys.queue, 0, -1, withscores=True)
        await queue.adopt_order()
        assert redis.zrange(keys.queue, 0, -1, withscores=True) == before
    weights = Order(policy="fair", tenant_weights={"": 2.0})
    async with JobQueue(redis_url, model, order=weights) as queue:
        await queue.adopt_order()
        assert redis.zrange(keys.queue, 0, -1, withscores=True) == before, "tags stay tags"
        counter = float(redis.hget(keys.counters, ""))
        await submit(queue, 1)
        assert float(redis.hget(keys.counters, "")) == counter + 203 / 2


async def test_workers_that_come_while_an_order_is_adopted(
    redis_url: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that took jobs between the look and the script is not left out."""
    async with JobQueue(redis_url, model) as old:
        [held, waits] = await submit(old, 2)
        async with JobQueue(redis_url, model, order=Order(policy="fair")) as new:
            link = new._shard.link
            call, meddled = link.call, []

            async def meddle(*command: object) -> object:
                answer = await call(*command)  # type: ignore[arg-type]
                if not meddled:
                    meddled.append(await claim_ids(old, await lease_on(old), 1))
                return answer

            monkeypatch.setattr(link, "call", meddle)
            await new.adopt_order()
            monkeypatch.undo()
            assert meddled == [[held]]
            jobs = await new.claim(await lease_on(new), FINGERPRINT, 2)
    assert {job.spec.job_id for job in jobs} == {held, waits}
    assert all(job.rank < 1e6 for job in jobs)


async def test_a_lane_learns_that_jobs_were_ranked_anew(redis_url: str, model: str) -> None:
    """Against when its lease was acquired: whoever acquires it again goes on."""
    weighted = Order(policy="fair", tenant_weights={"a": 2.0})
    async with (
        JobQueue(redis_url, model, order=Order(policy="fair")) as first,
        JobQueue(redis_url, model, order=weighted) as same_tags,
        JobQueue(redis_url, model) as other,
    ):
        await first.adopt_order()
        lease = await lease_on(first)
        for queue in (first, same_tags):
            await queue.adopt_order()
            assert await first.renew(lease) == Renewal(is_ours=True, is_in_order=True)
        await other.adopt_order()
        assert await first.renew(lease) == Renewal(is_ours=True, is_in_order=False)
        await first.adopt_order()
        assert await first.renew(lease) == Renewal(is_ours=True, is_in_order=False)
        again = await lease_on(first)
        assert await first.renew(again) == Renewal(is_ours=True, is_in_order=True)
        assert await first.renew(lease) == Renewal(is_ours=False, is_in_order=False)
