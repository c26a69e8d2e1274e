"""A queue of its own for every test, over the session's real Redis."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator

import pytest
from redis import Redis

from scheduler_svc.queue import JobQueue
from scheduler_svc.queue.keys import Keys

_numbers = itertools.count()


@pytest.fixture
def model() -> str:
    """Names a shard that no other test has seen."""
    return f"model/{next(_numbers)}"


@pytest.fixture
def keys(model: str) -> Keys:
    return Keys(model)


@pytest.fixture
async def queue(redis_url: str, model: str) -> AsyncIterator[JobQueue]:
    async with JobQueue(redis_url, model) as queue:
        yield queue


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    """A plain client, to look behind the queue and to break things."""
    with Redis.from_url(redis_url) as client:
        yield client
