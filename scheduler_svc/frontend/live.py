"""What there is to see of a model's service, for any number of viewers, read once for all."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from typing import Any, NamedTuple

from scheduler_svc.frontend.live_state import state_of
from scheduler_svc.queue import JobQueue
from stepserve.protocol.errors import Exhausted, Unavailable

log = logging.getLogger(__name__)

MAX_VIEWERS = 32
# A viewer that does not keep up misses frames, not memory.
MAX_HELD = 64
FRAME_INTERVAL_S, STATE_INTERVAL_S = 0.1, 1.0
# For how long lanes show what they do after the last word of us, and how often we say it.
WATCH_MS, WATCH_INTERVAL_S = 5000, 1.5
_RETRY_AFTER_MS = 5000


class Seen(NamedTuple):
    """Something to show: ``kind`` is "lane", "state" or "trouble", ``data`` its JSON."""

    kind: str
    data: str


class LiveView:
    """One for each process. Reads Redis while somebody looks, and not at all else."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self._viewers: set[_Viewer] = set()
        self._task: asyncio.Task[None] | None = None

    async def look(self) -> AsyncGenerator[Seen, None]:
        """Yield what happens, until it is closed. Raises Exhausted where too many look."""
        if len(self._viewers) >= MAX_VIEWERS:
            raise Exhausted(f"{MAX_VIEWERS} look at this service already", _RETRY_AFTER_MS)
        viewer = _Viewer()
        self._viewers.add(viewer)
        try:
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._run(), name="live-view")
            while True:
                yield await viewer.next()
        finally:
            self._viewers.discard(viewer)
            if not self._viewers and self._task is not None:
                self._task.cancel()
                self._task = None

    async def _run(self) -> None:
        """Show everybody what there is, until cancelled; also that Redis is away."""
        after, watched_s, told_s, said = "", 0.0, 0.0, ""
        while True:
            try:
                now_s = time.monotonic()
                if not after or now_s - watched_s >= WATCH_INTERVAL_S:
                    await self._queue.live.watch(WATCH_MS)
                    watched_s = now_s
                after = after or await self._queue.live.newest()
                after, frames = await self._queue.live.frames(after)
                for frame in frames:
                    self._show(Seen("lane", frame.decode()))
                if now_s - told_s >= STATE_INTERVAL_S:
                    told_s = now_s
                    self._show(_seen("state", await state_of(self._queue)))
                said = ""
            except Unavailable as error:
                after = ""
                said = self._trouble(str(error), said)
            except Exception as error:
                if type(error).__name__ != said:
                    log.exception("the live view failed, and is tried again")
                after, said = "", self._trouble(type(error).__name__, said)
            await asyncio.sleep(STATE_INTERVAL_S if said else FRAME_INTERVAL_S)

    def _trouble(self, problem: str, said: str) -> str:
        if problem != said:
            self._show(_seen("trouble", {"problem": problem}))
        return problem

    def _show(self, seen: Seen) -> None:
        for viewer in self._viewers:
            viewer.show(seen)


class _Viewer:
    """What one viewer has still to see."""

    def __init__(self) -> None:
        self._held: deque[Seen] = deque(maxlen=MAX_HELD)
        self._arrived = asyncio.Event()

    def show(self, seen: Seen) -> None:
        self._held.append(seen)
        self._arrived.set()

    async def next(self) -> Seen:
        while not self._held:
            self._arrived.clear()
            await self._arrived.wait()
        return self._held.popleft()


def _seen(kind: str, told: Mapping[str, Any]) -> Seen:
    return Seen(kind, json.dumps(told, separators=(",", ":")))
