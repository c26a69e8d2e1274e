"""A lease is trusted for two thirds of its time to live, whether Redis refuses or hangs."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from scheduler_svc.lane.lease_keeper import TRUST_SHARE, LeaseKeeper, OutOfOrder
from scheduler_svc.queue import Fenced, JobQueue, Order
from scheduler_svc.queue.embedded import EmbeddedRedis

TTL_S = 0.9


async def until_set(event: asyncio.Event, value: bool) -> None:
    while event.is_set() is not value:
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("signum", [signal.SIGSTOP, signal.SIGTERM])
async def test_planning_stops_while_redis_is_away(tmp_path: Path, signum: signal.Signals) -> None:
    with EmbeddedRedis.start(tmp_path) as redis:
        async with JobQueue(redis.url, "m") as queue:
            lease = await queue.acquire("worker", "lane", int(TTL_S * 1000))
            assert lease is not None
            assert redis.pid is not None
            keeper = LeaseKeeper(queue, lease, lambda: (0, 0))
            task = asyncio.create_task(keeper.run())
            os.kill(redis.pid, signum)
            asked_s = time.monotonic()
            await until_set(keeper.is_sure, False)
            # Long before the time to live is over, even though a hanging call lasts longer.
            assert time.monotonic() - asked_s < TTL_S
            assert time.monotonic() - asked_s > TTL_S * TRUST_SHARE / 2
            os.kill(redis.pid, signal.SIGCONT)
            await asyncio.to_thread(redis.ensure_running)
            await until_set(keeper.is_sure, True)
            assert not task.done()
            task.cancel()


async def test_a_lease_that_was_taken_over_is_fenced(redis_url: str) -> None:
    async with JobQueue(redis_url, f"keeper-{time.monotonic_ns()}") as queue:
        lease = await queue.acquire("worker", "lane", int(TTL_S * 1000))
        assert lease is not None
        assert await queue.acquire("worker", "lane", 60_000) is not None
        with pytest.raises(Fenced):
            await LeaseKeeper(queue, lease, lambda: (0, 0)).run()


async def test_a_lane_learns_that_the_jobs_were_ranked_anew(redis_url: str) -> None:
    model = f"keeper-{time.monotonic_ns()}"
    async with (
        JobQueue(redis_url, model) as queue,
        JobQueue(redis_url, model, order=Order(policy="fair")) as other,
    ):
        await queue.adopt_order()
        lease = await queue.acquire("worker", "lane", int(TTL_S * 1000))
        assert lease is not None
        await other.adopt_order()
        with pytest.raises(OutOfOrder):
            await LeaseKeeper(queue, lease, lambda: (0, 0)).run()
