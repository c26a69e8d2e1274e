"""Lanes come to hold equally many jobs, and none waits for a lane that takes nothing."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis

from scheduler_svc.queue import JobQueue, Lease
from scheduler_svc.queue.balance import YIELD_S, num_to_level
from scheduler_svc.queue.keys import Keys
from tests.scheduler_svc.queue.build import claim_ids, lease_on, row, submit, within

loads = st.lists(st.integers(0, 20), min_size=1, max_size=6)


@given(loads=loads, num_waiting=st.integers(0, 50))
def test_waiting_jobs_fill_the_lowest_first(loads: list[int], num_waiting: int) -> None:
    taken = [num_to_level(n, loads[:i] + loads[i + 1 :], num_waiting) for i, n in enumerate(loads)]
    assert num_waiting <= sum(taken) < num_waiting + len(loads)
    level = max((n + new for n, new in zip(loads, taken, strict=True) if new), default=0)
    assert all(n + new == max(n, level) for n, new in zip(loads, taken, strict=True)) or (
        num_waiting == 0
    )


@pytest.mark.parametrize(
    ("mine", "others", "num_waiting", "num_ours"),
    [(0, [], 9, 9), (3, [3], 5, 3), (4, [0], 14, 5), (0, [4], 14, 9), (5, [3], 1, 0)],
)
def test_num_to_level(mine: int, others: list[int], num_waiting: int, num_ours: int) -> None:
    assert num_to_level(mine, others, num_waiting) == num_ours


async def take(queue: JobQueue, lease: Lease, max_jobs: int = 64) -> int:
    return len(await claim_ids(queue, lease, await queue.allowance(lease, max_jobs)))


async def test_what_a_lost_lane_held_is_split_among_the_others(queue: JobQueue) -> None:
    first, second, lost = [await lease_on(queue, name) for name in ("first", "second", "lost")]
    await submit(queue, 6)
    assert await take(queue, first) == 2
    assert await take(queue, second) == 2
    assert await take(queue, lost) == 2
    await queue.release(lost)
    assert [await take(queue, first), await take(queue, second)] == [1, 1]


async def test_a_single_job_goes_to_who_holds_less(queue: JobQueue) -> None:
    busy, idle = await lease_on(queue, "busy"), await lease_on(queue, "idle")
    await submit(queue, 3)
    await claim_ids(queue, busy, 3)
    await submit(queue, 1)
    assert await asyncio.gather(take(queue, busy), take(queue, idle)) == [0, 1]


async def test_nobody_waits_long_for_a_lane_that_takes_nothing(queue: JobQueue) -> None:
    busy = await lease_on(queue, "busy")
    await submit(queue, 3)
    assert await take(queue, busy) == 3
    await lease_on(queue, "idle")
    await submit(queue, 2)
    asked_s = time.monotonic()
    async with within():
        assert await take(queue, busy) == 2
    assert time.monotonic() - asked_s >= YIELD_S


async def test_what_no_lane_can_run_counts_for_nobody(queue: JobQueue) -> None:
    busy, idle = await lease_on(queue, "busy"), await lease_on(queue, "idle")
    old = await submit(queue, 9)
    assert await claim_ids(queue, idle, 9, "old model") == old
    await queue.commit(idle, [row(job_id, 0, [1]) for job_id in old])
    await queue.requeue(idle, old)
    await submit(queue, 3)
    assert len(await claim_ids(queue, busy, 3)) == 3, "and the others are passed over"
    await submit(queue, 1)
    assert await asyncio.gather(take(queue, busy), take(queue, idle)) == [0, 1]


async def test_a_lease_further_ahead_than_its_time_to_live_does_not_count(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    ours = await lease_on(queue, "ours")
    await lease_on(queue, "dead")
    redis.hincrby(keys.lease("dead"), "expires", 3_600_000)
    await submit(queue, 9)
    assert await take(queue, ours) == 9


async def test_lanes_that_are_full_or_gone_do_not_count(queue: JobQueue) -> None:
    ours = await lease_on(queue, "ours")
    full = await queue.acquire("full", "holder", 60_000, {"places": "1"})
    assert full is not None
    await submit(queue, 1)
    assert await claim_ids(queue, full, 1)
    await lease_on(queue, "gone", ttl_ms=1)
    async with within():
        while len(await queue.workers()) > 2:
            await asyncio.sleep(0.001)
    await submit(queue, 9)
    assert await take(queue, ours) == 9
