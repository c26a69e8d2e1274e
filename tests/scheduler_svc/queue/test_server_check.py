"""What a server is set to do, and what that may lose."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from redis import Redis

from scheduler_svc.queue.address import parse_address
from scheduler_svc.queue.connection import Servers
from scheduler_svc.queue.limits import QueueLimits
from scheduler_svc.queue.link import RedisLink
from scheduler_svc.queue.server_check import (
    Memory,
    ServerState,
    server_memory,
    server_state,
)

SAFE = ServerState(
    keeps_file=True, appendfsync="always", maxmemory_policy="noeviction", is_rewritten=True
)


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[RedisLink]:
    servers = Servers(parse_address(redis_url), "key", timeout_s=2.0)
    found = RedisLink(servers, QueueLimits())
    yield found
    await found.close()
    await servers.close()


@pytest.mark.parametrize(
    ("state", "is_safe", "is_safe_for_fsync"),
    [
        (SAFE, True, True),
        (replace(SAFE, appendfsync="", maxmemory_policy=""), True, True),
        (replace(SAFE, appendfsync="everysec"), True, False),
        (replace(SAFE, keeps_file=False), False, False),
        (replace(SAFE, maxmemory_policy="allkeys-lru"), False, False),
    ],
)
def test_what_may_lose_jobs_is_said(
    state: ServerState, is_safe: bool, is_safe_for_fsync: bool
) -> None:
    assert (not state.flaws()) is is_safe
    assert (not state.flaws_of_fsync()) is is_safe_for_fsync


async def test_a_server_says_what_it_keeps(link: RedisLink, redis: Redis) -> None:
    state = await server_state(link)
    assert state.keeps_file is (redis.config_get("appendonly")["appendonly"] == "yes")
    for name in ("appendfsync", "maxmemory-policy"):
        assert getattr(state, name.replace("-", "_")) == redis.config_get(name)[name]


async def test_memory_is_a_share_of_the_limit(link: RedisLink, redis: Redis) -> None:
    assert (await server_memory(link)).share == 0.0, "without a limit"
    assert Memory(used_bytes=3, limit_bytes=2).share == 1.5, "it was lowered"
    try:
        redis.config_set("maxmemory", 2**40)
        assert 0 < (await server_memory(link)).share < 0.01
    finally:
        redis.config_set("maxmemory", 0)
