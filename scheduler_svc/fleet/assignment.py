"""What a scheduler's task for one worker address is told: to hold the worker, or to leave it."""

from __future__ import annotations

import asyncio
import contextlib
import time


class Assignment:
    """Written by who looks at the whole fleet, read by the task that drives the worker.

    ``incarnation``: of the worker that answers at the address; "" while none does.
    ``is_doubtful``: its last hold ended in a loss, and Redis could not be told: what is claimed
    there still must not go on as it is.
    """

    def __init__(self) -> None:
        self.incarnation = ""
        self.is_doubtful = False
        self.should_leave = asyncio.Event()
        self._should_hold = False
        self._called = asyncio.Event()
        self._closed = asyncio.Event()
        self._surplus_since_s: float | None = None

    @property
    def is_closed(self) -> bool:
        return self._closed.is_set()

    def keep(self, *, may_take: bool) -> None:
        """The worker should be ours. ``may_take``: nobody else has it now."""
        self._surplus_since_s = None
        if may_take and not self.is_closed:
            self.should_leave.clear()
            self._should_hold = True
            self._called.set()

    def give_up_in(self, settle_s: float) -> None:
        """The worker is ours and should be another's: let go once that was so for a while."""
        now_s = time.monotonic()
        if self._surplus_since_s is None:
            self._surplus_since_s = now_s
        if now_s - self._surplus_since_s >= settle_s:
            self.leave()

    def leave(self) -> None:
        """The worker is for somebody else."""
        self._surplus_since_s = None
        self._should_hold = False
        self._called.clear()
        self.should_leave.set()

    def close(self) -> None:
        """The task is to end: no worker is ours any more."""
        self.leave()
        self._closed.set()
        self._called.set()

    async def should_hold_within(self, wait_s: float) -> bool:
        """Wait until the worker should be held; False where that does not come in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._called.wait()
        return self._should_hold

    async def closed_within(self, wait_s: float) -> bool:
        """Wait until it is closed; False where that does not come in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._closed.wait()
        return self.is_closed
