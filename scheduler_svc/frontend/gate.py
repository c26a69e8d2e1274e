"""A bound on what is done at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from stepserve.protocol.errors import Exhausted

_RETRY_AFTER_MS = 1000


class Gate:
    """Lets ``max_inside`` pass at once; ``max_waiting`` may wait for it, ``max_wait_s`` each.

    Whoever comes beyond that is refused with Exhausted.
    """

    def __init__(self, max_inside: int, max_waiting: int, max_wait_s: float) -> None:
        self._room = asyncio.Semaphore(max_inside)
        self._max_waiting = max_waiting
        self._max_wait_s = max_wait_s
        self._num_waiting = 0

    @asynccontextmanager
    async def passage(self) -> AsyncIterator[None]:
        """Be inside for the time of the block."""
        await self._wait()
        try:
            yield
        finally:
            self._room.release()

    async def _wait(self) -> None:
        if self._num_waiting >= self._max_waiting:
            raise Exhausted("too many jobs are being submitted at once", _RETRY_AFTER_MS)
        self._num_waiting += 1
        try:
            async with asyncio.timeout(self._max_wait_s):
                await self._room.acquire()
        except TimeoutError as error:
            raise Exhausted("too many jobs are being submitted at once", _RETRY_AFTER_MS) from error
        finally:
            self._num_waiting -= 1
