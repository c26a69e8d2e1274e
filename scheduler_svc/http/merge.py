"""Streams of several jobs as one, for a request that has several prompts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeAlias

from stepserve.protocol.inference import StreamEvent

# So many events wait at most, beside one of each job; the jobs' logs keep the rest.
_MAX_WAITING = 1
_Outbox: TypeAlias = "asyncio.Queue[StreamEvent | Exception | None]"


def merged(
    streams: Sequence[AsyncGenerator[StreamEvent, None]],
) -> AsyncGenerator[StreamEvent, None]:
    """Return every stream's events, as they come, until all have ended."""
    return streams[0] if len(streams) == 1 else _merged(streams)


async def _merged(
    streams: Sequence[AsyncGenerator[StreamEvent, None]],
) -> AsyncGenerator[StreamEvent, None]:
    outbox: _Outbox = asyncio.Queue(_MAX_WAITING)
    tasks = [asyncio.create_task(_forward(outbox, each)) for each in streams]
    try:
        num_open = len(tasks)
        while num_open:
            news = await outbox.get()
            if isinstance(news, Exception):
                raise news
            if news is None:
                num_open -= 1
            else:
                yield news
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _forward(outbox: _Outbox, stream: AsyncGenerator[StreamEvent, None]) -> None:
    """Put a stream's events, and then None or what it raised."""
    end: Exception | None = None
    try:
        async with aclosing(stream) as events:
            async for event in events:
                await outbox.put(event)
    except Exception as error:
        end = error
    await outbox.put(end)


async def begun(jobs: Sequence[AsyncGenerator[StreamEvent, None]]) -> list[str]:
    """Return the jobs' ids, which come first in each stream. Closes all where one raises."""
    try:
        return [(await anext(job)).job_id for job in jobs]
    except BaseException:
        for job in jobs:
            await job.aclose()
        raise
