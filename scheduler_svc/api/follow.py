"""What is new in token logs, for any number of followers, with one reader of Redis.

A follower asks for what is beyond its offsets and is answered when there is something.
It keeps no more than an offset between two asks, so a slow client costs no memory: it
reads from the log when it is ready again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from protos.errors import Unavailable
from protos.job import OutputLog
from scheduler_svc.queue import JobQueue, LogRequest

log = logging.getLogger(__name__)

# Without a doorbell's word, everyone's logs are looked at so often.
POLL_INTERVAL_S = 1.0
# While Redis is away followers wait for so long; a restart or a failover takes less.
PATIENCE_S = 10.0
RETRY_INTERVAL_S = 0.2
MAX_WAITERS_PER_READ = 64


@dataclass(eq=False, slots=True)
class _Waiter:
    """A follower that has shown all it knows of, until ``news`` is set."""

    requests: tuple[LogRequest, ...]
    news: asyncio.Future[list[OutputLog | None]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def refuse(self, error: Exception) -> None:
        if not self.news.done():
            self.news.set_exception(error)


class FollowHub:
    """One for each process. ``run`` must run; where it fails, all followers fail for good."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self._waiters: defaultdict[str, set[_Waiter]] = defaultdict(set)
        self._due: set[_Waiter] = set()
        self._ready = asyncio.Event()
        self._away_since_s: float | None = None
        self._failure: Exception | None = None

    async def news(self, requests: Sequence[LogRequest]) -> list[OutputLog | None]:
        """Wait until at least one of one job's outputs goes beyond its offset or has ended.

        Answers for each request: what there is, maybe nothing; None for an unknown job.
        Raises Unavailable when Redis has been away for too long, and whatever reading
        this job's logs raises.
        """
        if self._failure is not None:
            raise RuntimeError("the log reader has failed") from self._failure
        waiter = _Waiter(tuple(requests))
        followers = self._waiters[requests[0].job_id]
        followers.add(waiter)
        self._call((waiter,))
        try:
            return await waiter.news
        finally:
            followers.discard(waiter)
            self._due.discard(waiter)
            if not followers:
                self._waiters.pop(requests[0].job_id, None)

    async def run(self) -> None:
        """Serve followers until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._listen(), name="follow-bell")
                group.create_task(self._read(), name="follow-logs")
        except ExceptionGroup as error:
            self._failure = error.exceptions[0]
            for waiter in self._everyone():
                waiter.refuse(RuntimeError("the log reader has failed"))
            raise self._failure from None

    async def _listen(self) -> None:
        async for rung in self._queue.follow():
            if rung.everything:
                self._call(self._everyone())
            for job_id in rung.moved & self._waiters.keys():
                self._call(self._waiters[job_id])

    def _call(self, waiters: Iterable[_Waiter]) -> None:
        self._due.update(waiters)
        self._ready.set()

    def _everyone(self) -> list[_Waiter]:
        return [waiter for followers in self._waiters.values() for waiter in followers]

    async def _read(self) -> None:
        while True:
            try:
                async with asyncio.timeout(POLL_INTERVAL_S):
                    await self._ready.wait()
            except TimeoutError:
                self._call(self._everyone())
            self._ready.clear()
            while self._due:
                due = [self._due.pop() for _ in range(min(len(self._due), MAX_WAITERS_PER_READ))]
                await self._answer(due)

    async def _answer(self, waiters: Sequence[_Waiter]) -> None:
        """Read all these logs at once; a follower without news goes on waiting."""
        requests = [request for waiter in waiters for request in waiter.requests]
        try:
            logs = iter(await self._queue.read(requests))
        except Unavailable as error:
            await self._bear(waiters, error)
            return
        except Exception as error:
            await self._narrow(waiters, error)
            return
        self._away_since_s = None
        for waiter in waiters:
            outputs = [next(logs) for _ in waiter.requests]
            if any(map(_is_news, waiter.requests, outputs)) and not waiter.news.done():
                waiter.news.set_result(outputs)

    async def _narrow(self, waiters: Sequence[_Waiter], error: Exception) -> None:
        """Find the logs that can't be read, by halves: they are nobody else's trouble."""
        half = len(waiters) // 2
        if not half:
            waiters[0].refuse(error)
            return
        await self._answer(waiters[:half])
        await self._answer(waiters[half:])

    async def _bear(self, waiters: Sequence[_Waiter], error: Unavailable) -> None:
        now_s = asyncio.get_running_loop().time()
        if self._away_since_s is None:
            self._away_since_s = now_s
            log.warning("followers wait for Redis: %s", error)
        if now_s - self._away_since_s < PATIENCE_S:
            self._call(waiter for waiter in waiters if not waiter.news.done())
            await asyncio.sleep(RETRY_INTERVAL_S)
            return
        for waiter in waiters:
            waiter.refuse(Unavailable(str(error)))


def _is_news(request: LogRequest, output: OutputLog | None) -> bool:
    if output is None or output.finish is not None or output.token_ids:
        return True
    return output.num_restarts != request.num_restarts
