"""Ranks as the policies define them: the pure twins, and what Redis makes of them."""

from __future__ import annotations

import itertools
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from redis import Redis

from scheduler_svc.order import Lengths, Policy, TokenCounters, time_rank
from scheduler_svc.queue import JobQueue, Order
from scheduler_svc.queue.keys import Keys
from stepserve.protocol.job import Finish
from tests.scheduler_svc.queue.build import (
    APPLIED,
    FINGERPRINT,
    STOP,
    claim_ids,
    lease_on,
    row,
    spec,
    submit,
)

weights = st.floats(0.01, 100.0)
requests = st.tuples(st.floats(0.0, 1e4), st.integers(-10, 10), st.floats(1.0, 1e5))


@given(st.lists(requests, max_size=8), weights, weights, weights, st.floats(0.0, 1e5))
def test_priority_is_the_sources_score_at_any_moment(
    jobs: list[tuple[float, int, float]], wait: float, remaining: float, own: float, later: float
) -> None:
    order = Order(
        policy="priority", wait_weight=wait, remaining_weight=remaining, priority_weight=own
    )
    now = 1e4 + later

    def score(job: tuple[float, int, float]) -> float:
        arrival, priority, estimate = job
        return (now - arrival) * wait + remaining / estimate + own * priority

    ranked = sorted(jobs, key=lambda job: time_rank(order, *job))
    for first, second in itertools.pairwise(map(score, ranked)):
        assert first >= second - 1e-9 * abs(now * wait)


async def test_priority_in_redis_is_the_sources_score(redis_url: str, model: str) -> None:
    async with JobQueue(redis_url, model, order=Order(policy="priority")) as queue:
        asked = [
            spec(priority=priority, max_tokens=max_tokens)
            for priority in (0, 10, -10, 1)
            for max_tokens in (1, 50, 1)
        ]
        for job in asked:
            await queue.submit(job)
        claimed = await queue.claim(await lease_on(queue), FINGERPRINT, 99)
    now = max(job.spec.arrival_s for job in claimed)

    def score(job: Any) -> float:
        spec = job.spec
        return float(
            (now - spec.arrival_s) * 1.0 + 0.5 / spec.sampling.max_tokens + 2.0 * spec.priority
        )

    assert len(claimed) == len(asked)
    assert claimed == sorted(claimed, key=score, reverse=True)


async def test_a_rank_comes_with_the_claim_and_stays(redis_url: str, model: str) -> None:
    for number, policy in enumerate(("fcfs", "priority", "fair")):
        order = Order(policy=policy)  # type: ignore[arg-type]
        async with JobQueue(redis_url, f"{model}/{number}", order=order) as queue:
            ids = await submit(queue, 3, priority=2)
            lease = await lease_on(queue)
            first = await queue.claim(lease, FINGERPRINT, 3)
            assert [job.spec.job_id for job in first] == ids
            if policy == "fcfs":
                assert [job.rank for job in first] == [job.spec.arrival_s for job in first]
            await queue.commit(lease, [row(ids[1], 0, [1])])
            await queue.requeue(lease, ids[1:])
            again = await queue.claim(lease, FINGERPRINT, 3)
            assert [job.rank for job in again] == [job.rank for job in first[1:]]
            lease = await lease_on(queue)
            taken_over = await queue.claim(lease, FINGERPRINT, 3)
            assert [job.rank for job in taken_over] == [job.rank for job in first]


async def test_only_jobs_of_a_lower_rank_are_claimed(queue: JobQueue) -> None:
    ids = await submit(queue, 5)
    lease = await lease_on(queue)
    jobs = await queue.claim(lease, FINGERPRINT, 5)
    await queue.requeue(lease, ids)
    below = await queue.claim(lease, FINGERPRINT, 5, max_rank=jobs[2].rank)
    assert [job.spec.job_id for job in below] == ids[:2]
    assert await queue.claim(lease, FINGERPRINT, 5, max_rank=jobs[2].rank) == []
    assert await claim_ids(queue, lease, 5) == ids[2:]


async def test_a_job_that_is_ranked_anew_meanwhile_is_not_claimed(
    queue: JobQueue, redis: Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    [job_id] = await submit(queue, 1)
    lease, link = await lease_on(queue), queue._lanes.link
    call = link.call

    async def look(*command: Any) -> Any:
        answer = await call(*command)
        redis.zadd(keys.queue, {job_id: 3e9})
        return answer

    monkeypatch.setattr(link, "call", look)
    assert await queue.claim(lease, FINGERPRINT, 1, max_rank=3e9) == []
    assert await claim_ids(queue, lease, 1) == [job_id]


observations = st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 60)), max_size=40)


@given(observations, st.integers(1, 100))
def test_an_estimate_is_the_mean_of_what_finished(
    seen: list[tuple[str, int]], max_tokens: int
) -> None:
    lengths = Lengths()
    for tenant, num_tokens in seen:
        lengths.observe(tenant, num_tokens)
    own, every = [n for t, n in seen if t == "a"], [n for _, n in seen]
    known = own if len(own) >= 8 else every if len(every) >= 8 else [max_tokens]
    expected = max(1.0, min(max_tokens, sum(known) / len(known)))
    assert lengths.estimate("a", max_tokens) == expected


def test_what_finished_long_ago_fades() -> None:
    lengths = Lengths()
    for num_tokens in [10] * 1000 + [100] * 1000:
        lengths.observe("a", num_tokens)
    assert 75 < lengths.estimate("a", 1000) <= 100


async def test_lengths_in_redis_are_those_of_the_twin(queue: JobQueue) -> None:
    """Over the point where the counts are halved; only ends of outputs' own accord count."""
    lengths, lease, number = Lengths(), await lease_on(queue), 0
    for _ in range(6):
        ids = [(await submit(queue, 1, tenant="abc"[i % 3]))[0] for i in range(200)]
        await claim_ids(queue, lease, 200)
        rows = []
        for at, job_id in enumerate(ids):
            number += 1
            reason = ("stop", "length", "error")[number % 7 % 3]
            num_tokens = number * 37 % 50
            rows.append(row(job_id, 0, range(num_tokens), Finish(reason)))
            if reason != "error":
                lengths.observe("abc"[at % 3], num_tokens)
        for _ in range(2):
            await queue.commit(lease, rows)
    for tenant, max_tokens in itertools.product("abcd", (1, 20, 100)):
        expected = lengths.estimate(tenant, max_tokens)
        assert await queue.estimate(tenant, max_tokens) == expected
    assert 1.0 < await queue.estimate("d", 100) < 50.0


async def test_too_few_outputs_tell_nothing(queue: JobQueue) -> None:
    lease = await lease_on(queue)
    ids = await submit(queue, 8, tenant="a")
    await claim_ids(queue, lease, 8)
    await queue.commit(lease, [row(job_id, 0, [1, 2], STOP) for job_id in ids[1:]])
    assert await queue.estimate("a", 9) is None
    await queue.commit(lease, [row(ids[0], 0, [1, 2], STOP)])
    assert await queue.estimate("a", 9) == await queue.estimate("b", 9) == 2.0


async def test_the_estimate_ranks_short_jobs_first(redis_url: str, model: str) -> None:
    order = Order(policy="priority", remaining_weight=1e3)
    async with JobQueue(redis_url, model, order=order) as queue:
        lease = await lease_on(queue)
        for tenant, num_tokens in (("short", 2), ("long", 90)):
            ids = await submit(queue, 8, tenant=tenant)
            await claim_ids(queue, lease, 8)
            rows = [row(job_id, 0, range(num_tokens), STOP) for job_id in ids]
            assert await queue.commit(lease, rows) == [APPLIED] * 8
        long, short = [(await submit(queue, 1, tenant=t))[0] for t in ("long", "short")]
        assert await claim_ids(queue, lease, 2) == [short, long]


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"wait_weight": 0.0}, "wait_weight"),
        ({"tenant_weights": {"a": 0.0}}, r"tenant_weights\['a'\]"),
        ({"tenant_weights": {"a": 1.0, "b": 1e18}}, r"tenant_weights\['b'\]"),
        ({"tenant_weights": {"a": 1e-306}}, r"tenant_weights\['a'\]"),
        ({"remaining_weight": 1e4}, "remaining_weight"),
        ({"priority_weight": -1.0}, "priority_weight"),
        ({"priority_weight": float("nan")}, "priority_weight"),
    ],
)
def test_an_order_that_starves_somebody_is_refused(wrong: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be"):
        Order(**wrong)


def test_an_order_may_ignore_length_and_priority() -> None:
    order = Order(policy="priority", remaining_weight=0.0, priority_weight=0.0)
    assert time_rank(order, 5.0, 10, 3.0) == 5.0


@pytest.mark.parametrize(
    ("policy", "ranks", "number"),
    [
        ("fcfs", [], 0),
        ("fcfs", [3.0, 3.5, 4.0, 4.1], 3),
        ("fair", [3.0, 2051.0, 2051.5], 2),
        ("priority", [0.0] * 40, 16),
    ],
)
def test_who_may_change_places(policy: Policy, ranks: list[float], number: int) -> None:
    assert Order(policy=policy).num_comparable(ranks) == number


@given(st.lists(st.floats(1.0, 500.0), min_size=1), st.floats(0.0, 100.0))
def test_newcomers_pass_a_tag_for_a_bounded_time(costs: list[float], distance: float) -> None:
    """Each is of a tenant who never came before, and is claimed as it comes."""
    tags, num_passed = TokenCounters(), 0
    while tags.virtual_time < distance:
        cost = costs[num_passed % len(costs)]
        tags.claimed(tags.submit(f"new{num_passed}", 1.0, cost), cost)
        num_passed += 1
    assert num_passed <= 64 * distance / min(costs) + 1


services = st.lists(st.tuples(st.sampled_from("ab"), st.floats(1.0, 500.0)), max_size=60)


@settings(max_examples=200)
@given(services, st.floats(0.25, 4.0))
def test_backlogged_tenants_are_served_by_weight(
    jobs: list[tuple[str, float]], weight: float
) -> None:
    """Served in the order of tags, what they had differs by no more than the largest jobs."""
    tags, waiting, served = TokenCounters(), [], {"a": 0.0, "b": 0.0}
    weight_of = {"a": 1.0, "b": weight}
    for number, (tenant, cost) in enumerate(jobs):
        rank = tags.submit(tenant, weight_of[tenant], cost)
        waiting.append((rank, number, tenant, cost))
    largest = {t: max((c for u, c in jobs if u == t), default=0.0) / weight_of[t] for t in "ab"}
    waiting.sort()
    while {tenant for _, _, tenant, _ in waiting} == {"a", "b"}:
        rank, _, tenant, cost = waiting.pop(0)
        tags.claimed(rank, cost / weight_of[tenant])
        served[tenant] += cost / weight_of[tenant]
        assert abs(served["a"] - served["b"]) <= sum(largest.values()) + 1e-6
