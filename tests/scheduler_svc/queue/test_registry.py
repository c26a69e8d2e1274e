"""What schedulers tell of workers: whose word counts, and for how long."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis import Redis

from scheduler_svc.queue import JobQueue, Registry, Sighting
from scheduler_svc.queue.keys import REGISTRY_SEEN, REGISTRY_TOLD
from scheduler_svc.queue.registry import FRESH_S, KEEP_S
from stepserve.protocol.worker_status import WorkerStatus


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    """All tests share the registry: each begins with an empty one."""
    with Redis.from_url(redis_url) as client:
        client.delete(REGISTRY_TOLD, REGISTRY_SEEN)
        yield client


@pytest.fixture
def registry(queue: JobQueue, redis: Redis) -> Registry:
    assert not redis.exists(REGISTRY_TOLD)
    return queue.registry()


def sighting(worker_id: str, model: str = "m", age_s: float = 0.0, **more: object) -> Sighting:
    return Sighting(WorkerStatus(worker_id, model, **more), age_s)  # type: ignore[arg-type]


def set_back(redis: Redis, worker_id: str, duration_s: float) -> None:
    """Let what was told of a worker be as old."""
    when, rest = redis.hget(REGISTRY_TOLD, worker_id).split(b"\n", 1)
    word = b"%d\n%s" % (float(when) - 1000 * duration_s, rest)
    redis.hset(REGISTRY_TOLD, worker_id, word)
    redis.zincrby(REGISTRY_SEEN, -1000 * duration_s, worker_id)


async def test_what_was_told_is_read_as_it_was(registry: Registry, redis: Redis) -> None:
    full = WorkerStatus(
        "w:1", "m é", "i", "f", "float32", "NVIDIA H200", "1.0", 10, 64, 16, 9, 4, 64, 2, 4,
        "me", 7.5, 0.0, "", 3, 1, 5, 12, 0.001, 0.25,
    )  # fmt: skip
    await registry.tell("me", [Sighting(full, 0.0), sighting("w:0", "a", note='a\n"line"')])
    first, found = await registry.workers()
    assert (first.worker_id, first.note) == ("w:0", 'a\n"line"')
    now_s = float(redis.time()[0])
    assert abs(found.seen_s - now_s) < 5
    assert WorkerStatus(**{**vars_of(found), "seen_s": 0.0}) == full
    for key in (REGISTRY_TOLD, REGISTRY_SEEN):
        assert 0 < redis.pttl(key) <= KEEP_S * 1000


def vars_of(status: WorkerStatus) -> dict[str, object]:
    return {name: getattr(status, name) for name in WorkerStatus.__dataclass_fields__}


async def test_a_drivers_word_goes_before_that_of_who_only_asks(
    registry: Registry, redis: Redis
) -> None:
    await registry.tell("prober", [sighting("w:1", note="free")])
    await registry.tell("driver", [sighting("w:1", driver="driver", num_running=3)])
    await registry.tell("prober", [sighting("w:1", age_s=3.0)])
    [found] = await registry.workers()
    assert (found.driver, found.num_running) == ("driver", 3)
    # One that was killed says nothing more: then it is not believed, and others are.
    set_back(redis, "w:1", FRESH_S + 1)
    [found] = await registry.workers()
    assert (found.driver, found.num_running) == ("", 3)
    await registry.tell("prober", [sighting("w:1")])
    [found] = await registry.workers()
    assert (found.driver, found.num_running) == ("", 0)


async def test_a_driver_says_that_it_left_and_the_next_one_that_it_came(
    registry: Registry,
) -> None:
    await registry.tell("a", [sighting("w:1", driver="a")])
    await registry.tell("b", [sighting("w:1", driver="b")])
    assert [w.driver for w in await registry.workers()] == ["b"]
    await registry.tell("b", [sighting("w:1")])
    assert [w.driver for w in await registry.workers()] == [""]


async def test_entries_go_when_nobody_renews_them(registry: Registry, redis: Redis) -> None:
    await registry.tell("a", [sighting("w:1"), sighting("w:2")])
    set_back(redis, "w:1", KEEP_S + 1)
    assert [w.worker_id for w in await registry.workers()] == ["w:2"]
    await registry.tell("a", [sighting("w:2")])
    assert redis.hkeys(REGISTRY_TOLD) == redis.zrange(REGISTRY_SEEN, 0, -1) == [b"w:2"]
    # A clock that went back makes no entry immortal.
    set_back(redis, "w:2", -3600)
    assert [w.worker_id for w in await registry.workers()] == ["w:2"]
    await registry.tell("a", [sighting("w:3")])
    assert redis.hkeys(REGISTRY_TOLD) == redis.zrange(REGISTRY_SEEN, 0, -1) == [b"w:3"]


async def test_of_several_who_saw_it_the_last_one_counts(registry: Registry) -> None:
    await registry.tell("a", [sighting("w:1", age_s=1.0)])
    [before] = await registry.workers()
    await registry.tell("b", [sighting("w:1", age_s=30.0)])
    [after] = await registry.workers()
    assert after.seen_s == before.seen_s


async def test_a_broken_entry_hides_no_other(
    registry: Registry, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    await registry.tell("a", [sighting(f"w:{i}") for i in range(300)])
    for name, word in (("w:0", b""), ("w:1", b"1\n\n[]"), ("w:2", b"x\n\n{}")):
        redis.hset(REGISTRY_TOLD, name, word)
    for _ in range(2):
        assert len(await registry.workers()) == 297
    assert caplog.text.count("cannot be read") == 3
    await registry.tell("a", [sighting("w:1")])
    assert len(await registry.workers()) == 298


async def test_every_models_queue_has_the_same_registry(queue: JobQueue, redis_url: str) -> None:
    async with JobQueue(redis_url, "another") as other:
        await other.registry().tell("a", [sighting("w:9", "z")])
    assert "w:9" in [w.worker_id for w in await queue.registry().workers()]
