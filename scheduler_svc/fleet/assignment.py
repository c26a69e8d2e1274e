"""What a scheduler's task for one worker address is told: to hold the worker, or to leave it."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

from scheduler_svc.metrics.turns import LaneMeter
from stepserve.protocol.step import WorkerInfo


@dataclass(frozen=True, slots=True)
class Held:
    """A worker that is driven, and by the lease of which epoch."""

    epoch: int
    meter: LaneMeter


class Assignment:
    """Written by who looks at a model's whole fleet, read by the task that drives the worker.

    ``incarnation``: of the worker that answers at the address; "" while none does that could be
    driven. ``info``, ``answered_s``: what the last one said that it is, and when (monotonic).
    ``problem``: why it is not driven here. ``held``: the lane that drives it.
    ``is_doubtful``: its last hold ended in a loss, and Redis could not be told: what is claimed
    there still must not go on as it is.
    """

    def __init__(self) -> None:
        self.incarnation = ""
        self.info: WorkerInfo | None = None
        self.answered_s = -math.inf
        self.problem = ""
        self.held: Held | None = None
        self.is_doubtful = False
        self.should_leave = asyncio.Event()
        self._should_hold = False
        self._called = asyncio.Event()
        self._closed = asyncio.Event()
        self._surplus_since_s: float | None = None

    @property
    def is_closed(self) -> bool:
        return self._closed.is_set()

    @property
    def model(self) -> str:
        """What the worker that last answered serves; "" before any did."""
        return "" if self.info is None else self.info.model

    def answered(self, info: WorkerInfo) -> None:
        """A worker answers; if it serves another model, nobody has said who should hold it."""
        if info.model != self.model and not self.is_closed:
            self.leave()
        self.info = info
        self.answered_s = time.monotonic()

    @contextlib.contextmanager
    def holding(self, held: Held) -> Iterator[None]:
        """It is driven here for the time of the block."""
        self.held, self.problem = held, ""
        try:
            yield
        finally:
            self.held = None

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
