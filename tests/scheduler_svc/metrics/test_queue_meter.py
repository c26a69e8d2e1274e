"""The queue's metrics against a real Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

import pytest
from redis import Redis

from scheduler_svc.metrics.queue_meter import QueueMeter
from scheduler_svc.metrics.tenants import OTHERS, Tenants
from scheduler_svc.metrics.turns import Turns
from scheduler_svc.queue import JobQueue
from scheduler_svc.queue import backlog as backlog_module
from scheduler_svc.queue.keys import Keys
from stepserve.metrics.family import Labels
from stepserve.protocol.job import JobSpec
from stepserve.protocol.sampling import Sampling

WAIT_S = 20.0


async def submit(queue: JobQueue, number: int, tenant: str) -> None:
    spec = JobSpec(f"j{number}", "m", (1, 2), Sampling(max_tokens=4), tenant=tenant)
    await queue.submit(spec)


def values(meter: QueueMeter) -> dict[str, Mapping[Labels, object]]:
    return {family.name: family.values for family in meter.families()}


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog_module, "SLICE", 2)


@pytest.mark.usefixtures("small_slices")
async def test_depth_and_age_by_tenant(queue: JobQueue, keys: Keys, redis: Redis) -> None:
    await queue.adopt_order()
    for number, tenant in enumerate(("a", "b", "a", "c", "a")):
        await submit(queue, number, tenant)
    oldest_s = float(redis.hget(keys.job("j1"), "arrival") or 0) - 60
    redis.hset(keys.job("j1"), "arrival", f"{oldest_s:.6f}")
    redis.set(keys.job("broken"), "no hash")
    redis.zadd(keys.queue, {"broken": 1e12})
    waiting = await queue.waiting_by_tenant(100)
    assert {tenant: each.num_jobs for tenant, each in waiting.items()} == {
        "a": 3,
        "b": 1,
        "c": 1,
        "": 1,
    }
    assert waiting["b"].oldest_s == pytest.approx(oldest_s, abs=1e-5)
    assert sum(each.num_jobs for each in (await queue.waiting_by_tenant(3)).values()) == 3


async def test_what_is_told_of_the_queue(queue: JobQueue) -> None:
    await queue.adopt_order()
    meter = QueueMeter(queue, Turns(), Tenants(1, ["heavy"]))
    assert values(meter)["redis_up"] == {(): 0.0}
    assert "queue_depth" not in values(meter), "a number that nobody has read"
    for number, tenant in enumerate(("heavy", "b", "c")):
        await submit(queue, number, tenant)
    lease = await queue.acquire("w:1", "me", 60_000, {"max_context": "64", "places": "4"})
    assert lease is not None
    assert len(await queue.claim(lease, "f", 1)) == 1
    task = asyncio.create_task(meter.run())
    await until(lambda: not meter.problem and "queue_depth" in values(meter))
    told = values(meter)
    task.cancel()
    assert "num_requests_running" not in told, "the lanes tell it"
    assert told["redis_up"] == {(): 1.0}
    assert told["queue_depth"] == told["num_requests_waiting"] == {(): 2}
    assert told["claimed_jobs"] == told["workers"] == {(): 1}
    assert told["tenant_queue_depth"] == {(("tenant", OTHERS),): 2.0}
    [age_s] = told["queue_age_seconds"].values()
    assert isinstance(age_s, float)
    assert 0 <= age_s < WAIT_S


async def test_an_api_alone_tells_what_runs_elsewhere(queue: JobQueue) -> None:
    await queue.adopt_order()
    await submit(queue, 1, "a")
    lease = await queue.acquire("w:1", "me", 60_000)
    assert lease is not None
    assert len(await queue.claim(lease, "f", 1)) == 1
    meter = QueueMeter(queue, Turns(), Tenants(1), has_lanes=False)
    task = asyncio.create_task(meter.run())
    await until(lambda: not meter.problem)
    task.cancel()
    assert values(meter)["num_requests_running"] == {(): 1}


async def test_redis_that_is_away_is_told_and_nothing_of_its_queue() -> None:
    async with JobQueue("unix:///nowhere/redis.sock", "m") as lost:
        meter = QueueMeter(lost, Turns(), Tenants(1))
        task = asyncio.create_task(meter.run())
        await until(lambda: "Redis" in meter.problem and "not asked" not in meter.problem)
        told = values(meter)
        task.cancel()
    assert told["redis_up"] == {(): 0.0}
    assert not {"queue_depth", "num_requests_waiting"} & told.keys()


async def test_redis_epoch_is_redis_clock_less_ours(queue: JobQueue) -> None:
    turns = Turns()
    turns.redis_epoch_s = 0.0
    meter = QueueMeter(queue, turns, Tenants(1))
    task = asyncio.create_task(meter.run())
    await until(lambda: not meter.problem)
    task.cancel()
    assert turns.redis_epoch_s == pytest.approx(time.time() - time.monotonic(), abs=5.0)
