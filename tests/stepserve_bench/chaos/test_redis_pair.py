"""A failover loses what the replica did not have yet, and nothing else; the address stays."""

from __future__ import annotations

import asyncio
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from redis.asyncio import Redis

from stepserve_bench.chaos.redis_pair import RedisPair


@pytest.fixture
async def pair() -> AsyncIterator[RedisPair]:
    # Not pytest's directory: the path of a socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="pair-") as directory:
        pair = RedisPair(Path(directory) / "redis")
        async with AsyncExitStack() as links:
            links.push_async_callback(pair.close)
            await pair.start(links)
            await pair.until_followed()
            yield pair


async def put(pair: RedisPair, key: str) -> None:
    async with Redis.from_url(pair.url) as client:
        await client.set(key, "1")


async def keys(pair: RedisPair) -> set[bytes]:
    async with Redis.from_url(pair.url) as client:
        return set(await client.keys())


async def test_each_serves_in_turn_and_the_last_writes_are_lost(pair: RedisPair) -> None:
    await put(pair, "first")
    pids = []
    for kept in ("second", "third"):
        pids.append(pair.pid)
        await pair.until_followed()
        failing = asyncio.create_task(pair.fail_over(0.0))
        while pair.is_up:  # Once it is not, nothing comes to the other any more.
            await asyncio.sleep(0.001)
        await put(pair, f"lost with {kept}")
        await failing
        assert pair.pid != pids[-1]
        await put(pair, kept)
    assert await keys(pair) == {b"first", b"second", b"third"}


async def test_who_is_killed_has_all_of_it_when_it_is_back(pair: RedisPair) -> None:
    await put(pair, "first")
    ending = asyncio.create_task(pair.end(signal.SIGKILL, 0.0, is_torn=True))
    while pair.is_up:
        await asyncio.sleep(0.001)
    await ending
    assert pair.is_up
    assert await keys(pair) == {b"first"}
    await pair.until_followed()


@pytest.mark.timeout(60)
async def test_faults_at_once_strike_one_after_another(pair: RedisPair) -> None:
    await put(pair, "first")
    await asyncio.gather(
        pair.fail_over(0.0),
        pair.end(signal.SIGKILL, 0.0),
        pair.fail_over(0.0),
        pair.end(signal.SIGTERM, 0.0),
    )
    assert pair.is_up
    assert await keys(pair) == {b"first"}
    await pair.until_followed()
