"""Records that edges keep: changed by one at a time, filled in order, noted once."""

from __future__ import annotations

import asyncio

import pytest
from redis import Redis

from scheduler_svc.queue import Corrupt, JobQueue
from scheduler_svc.queue.keys import Keys
from stepserve.protocol.errors import Unavailable


async def test_a_record_is_changed_by_who_knows_its_version(queue: JobQueue) -> None:
    shelf = queue.shelf("thing", str)
    assert await shelf.put("a", "one", is_open=True, ttl_s=60)
    assert not await shelf.put("a", "again", ttl_s=60)
    found = await shelf.get("a")
    assert found is not None
    assert (found.record, found.version) == ("one", 1)
    assert await shelf.open_ids() == {"a"}
    put = [shelf.put("a", text, version=1, ttl_s=60) for text in ("two", "three")]
    assert sorted(await asyncio.gather(*put)) == [False, True]
    assert await shelf.open_ids() == set()
    assert [each.record_id for each in await shelf.all()] == ["a"]
    assert await queue.shelf("other", str).all() == []
    assert await shelf.remove("a")
    assert not await shelf.remove("a")
    assert await shelf.get("a") is None


async def test_data_is_filled_in_order_and_a_repeat_is_harmless(queue: JobQueue) -> None:
    shelf = queue.shelf("thing", str)
    await shelf.append("a", 0, b"abc", 60)
    await shelf.append("a", 0, b"abc", 60)
    await shelf.append("a", 3, b"de", 60)
    assert await shelf.read("a", 1, 3) == b"bcd"
    assert await shelf.read("a", 5, 3) == b""
    with pytest.raises(Unavailable):
        await shelf.append("a", 2, b"x", 60)


async def test_what_came_of_a_line_is_noted_once(queue: JobQueue) -> None:
    shelf = queue.shelf("thing", str)
    await shelf.jot("a", 1, "nothing to belong to", is_good=True, ttl_s=60)
    assert await shelf.jotted("a") == set()
    await shelf.put("a", "{}", ttl_s=60)
    for text, is_good in (("first", True), ("second", False)):
        await shelf.jot("a", 1, text, is_good=is_good, ttl_s=60)
    await shelf.jot("a", 7, "bad", is_good=False, ttl_s=60)
    assert await shelf.jotted("a") == {1, 7}
    assert await shelf.counts(["a", "b"]) == [(1, 1), (0, 0)]
    assert await shelf.lines("a", [1, 2, 7]) == {1: "first", 7: "bad"}


async def test_one_works_on_a_record_until_it_says_so_no_more(queue: JobQueue) -> None:
    shelf = queue.shelf("thing", str)
    assert await shelf.mind("a", "me", 50)
    assert await shelf.mind("a", "me", 50)
    assert not await shelf.mind("a", "you", 50)
    async with asyncio.timeout(10):
        while not await shelf.mind("a", "you", 50):
            await asyncio.sleep(0.01)


async def test_what_has_expired_is_forgotten(queue: JobQueue) -> None:
    shelf = queue.shelf("thing", str)
    await shelf.append("a", 0, b"abc", 1)
    await shelf.put("a", "{}", is_open=True, ttl_s=1)
    async with asyncio.timeout(10):
        while await shelf.all():
            await asyncio.sleep(0.05)
    assert await shelf.open_ids() == set()
    assert await shelf.read("a", 0, 3) == b""


async def test_a_record_that_cannot_be_read_hides_no_other(
    queue: JobQueue, redis: Redis, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    shelf = queue.shelf("thing", int)
    for record_id in ("a", "b", "c", "d", "e", "f"):
        await shelf.put(record_id, 1, ttl_s=60)

    def key(record_id: str) -> str:
        return keys.shelved("record", "thing", record_id)

    redis.hset(key("b"), "record", "{")
    redis.hset(key("c"), "record", b"\xff")
    redis.hset(key("d"), "version", "none")
    redis.delete(key("e"))
    redis.set(key("e"), "of another kind")
    redis.set(keys.shelved("lines", "thing", "e"), "of another kind")
    for _ in range(2):
        assert [each.record_id for each in await shelf.all()] == ["f", "a"]
        assert [each.record_id for each in await shelf.some(["e", "a", "b"])] == ["a"]
    for broken in "bcde":
        with pytest.raises(Corrupt):
            await shelf.get(broken)
        assert caplog.text.count(f"the stored thing {broken} cannot be read") == 1
    assert await shelf.counts(["e", "a"]) == [(0, 0), (0, 0)]
