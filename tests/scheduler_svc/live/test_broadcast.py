"""What lanes show reaches who looks, by a real Redis, and only while somebody does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
from redis import Redis

from scheduler_svc.core.events import Claimed
from scheduler_svc.core.scheduler import Core
from scheduler_svc.frontend import live as live_module
from scheduler_svc.frontend.live import LiveView
from scheduler_svc.live import broadcast as broadcast_module
from scheduler_svc.live.broadcast import Broadcast
from scheduler_svc.metrics.latencies import Latencies
from scheduler_svc.queue import JobQueue
from scheduler_svc.queue.keys import Keys
from stepserve.protocol.errors import Exhausted
from stepserve.protocol.job import JobSpec
from stepserve.protocol.sampling import Sampling
from tests.scheduler_svc.core.build import core_config, job
from tests.scheduler_svc.queue.conftest import keys, model, queue, redis

__all__ = ["keys", "model", "queue", "redis"]
WAIT_S = 20.0


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broadcast_module, "LOOK_INTERVAL_S", 0.02)
    monkeypatch.setattr(broadcast_module, "FRAME_INTERVAL_S", 0.02)
    monkeypatch.setattr(live_module, "FRAME_INTERVAL_S", 0.02)


@asynccontextmanager
async def showing(queue: JobQueue) -> AsyncIterator[tuple[Broadcast, Core]]:
    """A process's lanes: one, whose core has run nothing yet."""
    broadcast, config = Broadcast(), core_config()
    task = asyncio.create_task(broadcast.run(queue, "me", Latencies()))
    core = Core(config)
    with broadcast.lane("w:1", config) as picture:
        picture.observe((), core.handle(()), core)
        core.picture = picture  # type: ignore[attr-defined]
        yield broadcast, core
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def until_seen(view: LiveView, is_it: Any) -> Any:
    """Look until something of that kind is there."""
    async with asyncio.timeout(WAIT_S), aclosing(view.look()) as seen:
        async for kind, data in seen:
            told = json.loads(data)
            if is_it(kind, told):
                return told
    raise AssertionError


async def test_a_lane_is_seen_and_shows_nothing_when_nobody_looks(
    queue: JobQueue, keys: Keys, redis: Redis
) -> None:
    await queue.adopt_order()
    async with showing(queue) as (broadcast, core):
        await asyncio.sleep(0.1)
        assert not broadcast.is_watched
        assert not redis.exists(keys.live, keys.watched)
        view = LiveView(queue)

        def drives(kind: str, told: Any) -> bool:
            if broadcast.is_watched and not core.job_ids:
                events = (Claimed((job("a", tenant="acme"),)),)
                core.picture.observe(events, core.handle(events), core)  # type: ignore[attr-defined]
            return kind == "lane" and bool(told.get("lives"))

        told = await until_seen(view, drives)
        assert (told["holder"], told["worker"]) == ("me", "w:1")
        assert [life[0] for life in told["lives"]] == ["admitted"]
        latency = await until_seen(view, lambda _, frame: "first_token_s" in frame)
        assert (
            len(latency["first_token_s"]["counts"]) == len(latency["first_token_s"]["bounds"]) + 1
        )
        ttl_ms = redis.pttl(keys.watched)
        assert isinstance(ttl_ms, int)
        assert 0 < ttl_ms <= live_module.WATCH_MS, "who looks is forgotten when it dies"
        redis.delete(keys.watched)
        async with asyncio.timeout(WAIT_S):
            while broadcast.is_watched:
                await asyncio.sleep(0.01)


async def test_the_state_tells_the_queue_the_workers_and_the_jobs(queue: JobQueue) -> None:
    await queue.adopt_order()
    info = {"max_context": "64", "places": "4", "num_blocks": "16", "block_size": "4"}
    lease = await queue.acquire("w:1", "me", 60_000, info)
    assert lease is not None
    await queue.renew(lease, 1500, 3)
    for number, (tenant, priority) in enumerate((("a", 0), ("b", 5), ("a", 2), ("a", 2))):
        spec = JobSpec(f"j{number}", "m", (1, 2), Sampling(max_tokens=4), "", priority, tenant)
        await queue.submit(spec)
    [claimed] = await queue.claim(lease, "f", 1)
    state = await until_seen(LiveView(queue), lambda kind, _: kind == "state")
    assert claimed.spec.job_id == "j0"
    assert state["queue"]["num"] == 3
    by_tenant = {each["tenant"]: each["by_priority"] for each in state["queue"]["tenants"]}
    assert by_tenant == {"a": [[2, 2]], "b": [[5, 1]]}
    assert [each["job"] for each in state["queue"]["first"]] == ["j1", "j2", "j3"]
    [worker] = state["workers"]
    assert (worker["worker"], worker["holder"], worker["step_us"]) == ("w:1", "me", 1500)
    assert (worker["blocks"], worker["used"], worker["places"]) == (16, 3, 4)
    [running] = state["jobs"]
    assert (running["job"], running["state"], running["prompt_tokens"]) == ("j0", "running", 2)


async def test_viewers_have_bounds_and_a_slow_one_misses_frames(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "MAX_VIEWERS", 2)
    view = LiveView(queue)
    async with aclosing(view.look()) as one, aclosing(view.look()) as two:
        async with asyncio.timeout(WAIT_S):
            await anext(one)
            await anext(two)
        with pytest.raises(Exhausted):
            await anext(view.look())
        [viewer, *_] = view._viewers
        for number in range(500):
            viewer.show(live_module.Seen("lane", str(number)))
        assert len(viewer._held) == live_module.MAX_HELD
        assert viewer._held[-1].data == "499"
    assert view._task is None, "nobody looks, nothing is read"
