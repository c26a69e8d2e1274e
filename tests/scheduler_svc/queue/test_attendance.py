"""Schedulers know of each other: who lives, what each reaches, and who drives what."""

from __future__ import annotations

import asyncio

import pytest
from redis import Redis

from scheduler_svc.queue import Fleet, JobQueue
from scheduler_svc.queue.keys import Keys
from tests.scheduler_svc.queue.build import within

TTL_MS = 60_000


async def test_each_learns_what_all_reach_and_who_drives_what(queue: JobQueue) -> None:
    assert await queue.attend("a", TTL_MS, []) == Fleet({"a": frozenset()}, {})
    assert await queue.acquire("w1", "a", TTL_MS) is not None
    both = Fleet({"a": frozenset(), "b": frozenset({"w1", "w2"})}, {"w1": "a"})
    assert await queue.attend("b", TTL_MS, ["w2", "w1"]) == both
    await queue.depart("b")
    assert await queue.attend("a", TTL_MS, ["w1"]) == Fleet({"a": frozenset({"w1"})}, {"w1": "a"})


async def test_who_is_silent_is_forgotten(queue: JobQueue, redis: Redis, keys: Keys) -> None:
    await queue.attend("silent", TTL_MS, ["w"])
    async with within():
        while (await queue.attend("a", 20, [])).reaches.keys() != {"a"}:
            await asyncio.sleep(0.005)
    assert redis.hkeys(keys.reaches) == redis.zrange(keys.schedulers, 0, -1) == [b"a"]


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_clock_that_was_moved_keeps_no_dead_scheduler(
    queue: JobQueue, redis: Redis, keys: Keys, hours: int
) -> None:
    await queue.attend("dead", TTL_MS, ["w"])
    redis.zincrby(keys.schedulers, 3_600_000 * hours, "dead")
    assert (await queue.attend("a", TTL_MS, [])).reaches.keys() == {"a"}


@pytest.mark.parametrize("told", ["no JSON", "5", "null", "[5, null]"])
async def test_who_cannot_be_read_reaches_nobody(
    queue: JobQueue, redis: Redis, keys: Keys, told: str
) -> None:
    await queue.attend("odd", TTL_MS, ["w"])
    redis.hset(keys.reaches, "odd", told)
    reaches = {"a": frozenset({"w"}), "odd": frozenset()}
    assert (await queue.attend("a", TTL_MS, ["w"])).reaches == reaches
