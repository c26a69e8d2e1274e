"""The clients are tested against the api that they are for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import pytest

from stepserve import AsyncClient, Client, RetryPolicy, StreamEvent
from tests.scheduler_svc.api.conftest import card, checkpoint, served
from tests.scheduler_svc.api.served import WAIT_S, Served

__all__ = ["card", "checkpoint", "served"]

T = TypeVar("T")
QUICK = RetryPolicy(first_pause_s=0.01, max_pause_s=0.1, patience_s=WAIT_S)


class Blocking:
    """The sync client behind the async one's face: each call in a thread."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)
        if name in ("generate", "attach"):
            return lambda *args, **fields: self._stream(method(*args, **fields))
        return lambda *args, **fields: asyncio.to_thread(method, *args, **fields)

    async def _stream(self, events: Any) -> AsyncIterator[StreamEvent]:
        while (event := await asyncio.to_thread(next, events, None)) is not None:
            yield event


@pytest.fixture(params=["aio", "sync"])
async def client(served: Served, request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    if request.param == "aio":
        async with AsyncClient(served.address, QUICK) as client:
            yield client
    else:
        with Client(served.address, QUICK) as blocking:
            yield Blocking(blocking)
