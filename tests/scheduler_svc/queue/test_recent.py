"""Jobs that were stored of late, and what becomes of them where Redis has lost them."""

from __future__ import annotations

import time

import pytest
from redis import Redis

from scheduler_svc.queue import JobQueue
from scheduler_svc.queue.keys import Keys
from scheduler_svc.queue.recent import REMEMBERED_S
from tests.scheduler_svc.queue.build import claim_ids, lease_on, spec, submit


async def test_they_are_stored_again_on_a_server_that_has_nothing(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    asked = await submit(queue, 2)
    for name in redis.keys(f"{keys.job('')}*"):
        redis.delete(name)
    redis.delete(keys.queue, keys.jobs, keys.order)
    assert await queue._submitting.restore() == 2
    assert await claim_ids(queue, await lease_on(queue), 5) == asked
    assert await queue._submitting.restore() == 0, "they are there"


async def test_what_redis_has_kept_for_long_enough_is_not_stored_again(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever deleted it on another replica would find it there again."""
    [job_id] = await submit(queue, 1)
    await queue._mending.look()
    now_s = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now_s + REMEMBERED_S + 6)
    await queue.sweep()
    await queue.cancel(job_id)
    await queue._shard.link.call("DEL", queue._shard.keys.job(job_id))
    assert await queue._submitting.restore() == 0


async def test_a_submit_after_an_outage_forgets_nothing_that_it_may_have_taken(
    queue: JobQueue, redis: Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    await queue._mending.look()
    [job_id] = await submit(queue, 1)
    now_s = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now_s + REMEMBERED_S + 6)
    redis.delete(keys.job(job_id), keys.queue, keys.jobs)
    queue._mending._continuity.note({"run_id": "of the server before"})
    await submit(queue, 1)
    await queue.sweep()
    assert await queue.job(job_id) is not None


async def test_a_submit_that_failed_in_the_middle_is_not_taken_for_one_that_stored(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    await submit(queue, 1)
    job = spec()
    redis.hset(keys.job(job.job_id), "arrival", "1")
    assert not (await queue.submit(job)).existed
    assert job.job_id in await claim_ids(queue, await lease_on(queue), 5)


async def test_one_that_can_not_be_stored_again_keeps_no_other_from_it(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    broken = (await queue.submit(spec(idempotency_key="key"))).job_id
    [sound] = await submit(queue, 1)
    redis.delete(keys.job(broken), keys.job(sound), keys.queue, keys.jobs)
    [idem] = redis.keys(keys.idem("*"))
    redis.delete(idem)
    redis.rpush(idem, "of another kind")
    assert await queue._submitting.restore() == 1
    assert await claim_ids(queue, await lease_on(queue), 5) == [sound]


async def test_who_lacks_only_what_its_edge_keeps_was_not_lost(
    queue: JobQueue, redis: Redis, keys: Keys
) -> None:
    job_id = (await queue.submit(spec(), edge="kept")).job_id
    redis.hdel(keys.job(job_id), "edge")
    assert await queue._submitting.restore() == 0
    assert await queue.edge_of(job_id) == "kept"
