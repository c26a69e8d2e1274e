"""Streams of several jobs as one, for a request that has several prompts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeAlias

from stepserve.protocol.inference import StreamEvent

# So many events wait at most, beside one of each job; the jobs' logs keep the rest.
_MAX_WAITING = 1
_Outbox: TypeAlias = "asyncio.Queue[tuple[int, StreamEvent | Exception | None]]"


async def merged(
    streams: Sequence[AsyncGenerator[StreamEvent, None]],
) -> AsyncGenerator[tuple[int, StreamEvent], None]:
    """Yield every stream's events with its position, as they come, until all have ended."""
    if len(streams) == 1:
        async with aclosing(streams[0]) as events:
            async for event in events:
                yield 0, event
        return
    outbox: _Outbox = asyncio.Queue(_MAX_WAITING)
    tasks = [asyncio.create_task(_forward(outbox, *each)) for each in enumerate(streams)]
    try:
        num_open = len(tasks)
        while num_open:
            position, news = await outbox.get()
            if isinstance(news, Exception):
                raise news
            if news is None:
                num_open -= 1
            else:
                yield position, news
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _forward(
    outbox: _Outbox, position: int, stream: AsyncGenerator[StreamEvent, None]
) -> None:
    """Put a stream's events, and then None or what it raised."""
    end: Exception | None = None
    try:
        async with aclosing(stream) as events:
            async for event in events:
                await outbox.put((position, event))
    except Exception as error:
        end = error
    await outbox.put((position, end))


async def begun(jobs: Sequence[AsyncGenerator[StreamEvent, None]]) -> list[str]:
    """Return the jobs' ids, which come first in each stream. Closes all where one raises."""
    try:
        return [(await anext(job)).job_id for job in jobs]
    except BaseException:
        for job in jobs:
            await job.aclose()
        raise
