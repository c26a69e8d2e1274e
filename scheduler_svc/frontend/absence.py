"""Jobs whose client went away, and that were to be cancelled then."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from scheduler_svc.frontend.trouble import Trouble
from scheduler_svc.queue import JobQueue, Submitted
from stepserve.protocol.errors import Unavailable
from stepserve.protocol.job import Finish

log = logging.getLogger(__name__)

# While Redis is away a job is not forgotten for so long.
PATIENCE_S = 600.0
RETRY_INTERVAL_S = 1.0
# A replica that is silent for so long follows nothing any more, so far as others know.
PRESENCE_TTL_S = 15.0
LEFT = Finish("cancelled", "its client went away")


class Absence:
    """Cancels a job ``grace_s`` after its last stream was closed early, wherever that was.

    Redis knows which replicas have streams of the jobs that are watched; the last one whose
    stream is cut off cancels. A process that is killed or stops cancels nothing. ``run``
    must run.
    """

    def __init__(self, queue: JobQueue, grace_s: float) -> None:
        ttl_s = max(PRESENCE_TTL_S, grace_s)
        self._presence = queue.presence(uuid.uuid4().hex, int(ttl_s * 1000))
        self._grace_s = grace_s
        self._num_streams: Counter[str] = Counter()
        self._watched: set[str] = set()
        self._timers: dict[str, asyncio.Task[None]] = {}
        self._storing: set[asyncio.Task[Submitted]] = set()
        self._is_closed = False
        # Words reach Redis in the order in which they were meant: a job that was left a moment ago
        # would be followed again by a word that was on its way.
        self._words = asyncio.Lock()
        # Whose streams began while a word was on its way: all of them are the next one.
        self._untold: set[str] = set()
        self._trouble = Trouble(log, "others are not told what is followed here")

    @property
    def num_away(self) -> int:
        """Jobs that are cancelled soon unless a client comes back."""
        return len(self._timers)

    @asynccontextmanager
    async def stream(
        self, job_id: str, watch: bool, grace_s: float | None = None
    ) -> AsyncIterator[None]:
        """Count a stream of the job while it is open; leave by an exception if it was cut off.

        With ``watch``, or if the job is watched already, the job is cancelled when its last
        stream has been cut off for ``grace_s`` (None: as long as is usual).
        """
        if watch:
            self._watched.add(job_id)
        self._num_streams[job_id] += 1
        if (timer := self._timers.pop(job_id, None)) is not None:
            timer.cancel()
        cut_off = True
        try:
            await self._tell(job_id)
            yield
            cut_off = False
        finally:
            self._num_streams[job_id] -= 1
            if not self._num_streams[job_id]:
                del self._num_streams[job_id]
                self._left(job_id, cut_off, self._grace_s if grace_s is None else grace_s)

    def abandon(self, storing: asyncio.Task[Submitted], grace_s: float | None) -> None:
        """Let the job that is being stored be as one whose last stream was cut off."""
        self._storing.add(storing)

        def stored(task: asyncio.Task[Submitted]) -> None:
            self._storing.discard(task)
            if task.cancelled() or task.exception() is not None or task.result().existed:
                return
            job_id = task.result().job_id
            self._watched.add(job_id)
            if self._num_streams[job_id]:
                return  # Its client came back already: that stream's end is what counts.
            self._left(job_id, True, self._grace_s if grace_s is None else grace_s)

        storing.add_done_callback(stored)

    async def run(self) -> None:
        """Go on telling the others what is followed here, until cancelled."""
        while True:
            await asyncio.sleep(PRESENCE_TTL_S / 3)
            try:
                await self._tell()
            except Exception as error:
                self._trouble.is_there(error)
            else:
                self._trouble.is_gone()

    async def close(self) -> None:
        """From now on, and for all that are away now: cancel nothing, and follow nothing."""
        self._is_closed = True
        timers, self._timers = list(self._timers.values()), {}
        for timer in timers:
            timer.cancel()
        await asyncio.gather(*timers, return_exceptions=True)
        with contextlib.suppress(Unavailable):
            for job_id in self._num_streams.keys() & self._watched:
                await self._presence.leave(job_id, 0)

    async def _tell(self, job_id: str | None = None) -> None:
        """Say that the job is followed here, or what is, where none is named."""
        if job_id is not None:
            if job_id not in self._watched:
                return
            self._untold.add(job_id)
        with contextlib.suppress(Unavailable):
            async with self._words:
                news = set(self._untold)
                followed = self._num_streams.keys() & self._watched
                await self._presence.follow(list(followed if job_id is None else followed & news))
                self._untold -= news

    def _left(self, job_id: str, cut_off: bool, grace_s: float) -> None:
        if not cut_off:
            self._watched.discard(job_id)
        elif job_id in self._watched and not self._is_closed:
            self._timers[job_id] = asyncio.create_task(self._cancel_later(job_id, grace_s))

    async def _cancel_later(self, job_id: str, grace_s: float) -> None:
        try:
            with contextlib.suppress(Unavailable):
                async with self._words:
                    await self._presence.leave(job_id, int(grace_s * 1000))
            await asyncio.sleep(grace_s)
            await self._cancel(job_id)
        except Exception as error:
            log.error("could not cancel a job whose client went away", exc_info=error)
        finally:
            # Not where the client came back: it is watched on, and the next timer is not ours.
            if self._timers.get(job_id) is asyncio.current_task():
                del self._timers[job_id]
                self._watched.discard(job_id)

    async def _cancel(self, job_id: str) -> None:
        """Cancel it, trying again while Redis is away, for as long as ``PATIENCE_S``."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + PATIENCE_S
        while True:
            try:
                await self._presence.cancel(job_id, LEFT)
                return
            except Unavailable:
                if loop.time() > end_s:
                    raise
            await asyncio.sleep(RETRY_INTERVAL_S)
