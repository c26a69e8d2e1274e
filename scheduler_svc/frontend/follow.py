"""What is new in token logs, for any number of followers, with one reader of Redis.

A follower asks for what is beyond its offsets and is answered when there is something.
It keeps no more than an offset between two asks, so a slow client costs no memory: it
reads from the log when it is ready again. All that is new within a window is one answer,
and one read answers everybody.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from time import thread_time

from scheduler_svc.frontend.due import Due
from scheduler_svc.queue import JobQueue, LogRequest
from stepserve.protocol.errors import Unavailable
from stepserve.protocol.job import OutputLog

log = logging.getLogger(__name__)

# Without a doorbell's word, everyone's logs are looked at so often.
POLL_INTERVAL_S = 1.0
# While Redis is away followers wait for so long; a restart or a failover takes less.
PATIENCE_S = 10.0
RETRY_INTERVAL_S = 0.2
# Redis does nothing else for about a millisecond meanwhile.
MAX_FOLLOWERS_PER_READ = 256
# Of prompts' log-probabilities, which are as many as their prompt is long.
MAX_BYTES_PER_READ = 4 * 1024 * 1024


class Follower:
    """One stream of a job, as the hub knows it. Waits for one answer at a time."""

    def __init__(self, hub: FollowHub, job_id: str) -> None:
        self._hub = hub
        self.job_id = job_id
        self.requests: Sequence[LogRequest] = ()
        self._answer: asyncio.Future[list[OutputLog | None]] | None = None
        # Whether there may be more in the logs than was shown, and whether that can wait.
        self.may_have_news = True
        self.is_urgent = True
        # Whether an output that it follows may have shown nothing yet.
        self.is_starting = True

    @property
    def is_waiting(self) -> bool:
        return self._answer is not None and not self._answer.done()

    def call(self, is_urgent: bool) -> None:
        """Note that there may be news."""
        self.may_have_news = True
        self.is_urgent = self.is_urgent or is_urgent

    async def news(self, requests: Sequence[LogRequest]) -> list[OutputLog | None]:
        """Wait until at least one of the job's outputs goes beyond its offset or has ended.

        The first token of an output and the end of one are told at once, anything else once
        the hub's window is over. Answers for each request: what there is, maybe nothing; None
        for an unknown job. Raises Unavailable when Redis has been away for too long, and
        whatever reading this job's logs raises.
        """
        self.requests = requests
        answer: asyncio.Future[list[OutputLog | None]]
        self._answer = answer = asyncio.get_running_loop().create_future()
        self._hub.ask(self)
        return await answer

    def tell(self, outputs: list[OutputLog | None]) -> None:
        """Answer, if that is waited for and there is anything new."""
        answer, is_news = self._answer, False
        if answer is None or answer.done():
            return
        for request, output in zip(self.requests, outputs, strict=True):
            if output is None:
                is_news = True
            elif output.token_ids:
                is_news = True
                # As long as was asked for: there may be more.
                if len(output.token_ids) >= request.max_tokens:
                    self.call(is_urgent=True)
            elif output.finish is not None or output.num_restarts != request.num_restarts:
                is_news = True
        if is_news:
            answer.set_result(outputs)

    def refuse(self, error: Exception) -> None:
        """Answer with an error, if an answer is waited for."""
        if self.is_waiting:
            assert self._answer is not None
            self._answer.set_exception(error)


class FollowHub:
    """One for each process. ``run`` must run; where it fails, all followers fail for good.

    What the doorbell says of a step is noted for all its jobs at once; a follower is looked at
    when its logs are read.
    """

    def __init__(self, queue: JobQueue, window_s: float) -> None:
        self._queue = queue
        self._followers: defaultdict[str, set[Follower]] = defaultdict(set)
        # How many followers of a job are starting, of those jobs that have such.
        self._starting: Counter[str] = Counter()
        self._due: Due[str] = Due(window_s)
        self._called = asyncio.Event()
        self._away_since_s: float | None = None
        self._failure: Exception | None = None

    @contextmanager
    def follow(self, job_id: str) -> Iterator[Follower]:
        """Let a follower of the job in for the time of the block."""
        follower = Follower(self, job_id)
        self._followers[job_id].add(follower)
        self._starting[job_id] += 1
        try:
            yield follower
        finally:
            self._note_start(follower)
            self._followers[job_id].discard(follower)
            if not self._followers[job_id]:
                self._due.discard(job_id)
                del self._followers[job_id]

    def ask(self, follower: Follower) -> None:
        """Answer it once there is news. Raises RuntimeError where the hub has failed."""
        if self._failure is not None:
            raise RuntimeError("the log reader has failed") from self._failure
        if follower.is_starting and all(request.offset for request in follower.requests):
            self._note_start(follower)
        if follower.may_have_news:
            self._call({follower.job_id}, follower.is_urgent or follower.is_starting)

    async def may_come_back(self, follower: Follower) -> bool:
        """Whether its job, that is not there, may be stored again: then it is to ask once more."""
        if not await self._queue.may_come_back():
            return False
        await asyncio.sleep(RETRY_INTERVAL_S)
        follower.call(is_urgent=True)
        return True

    async def run(self) -> None:
        """Serve followers until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._listen(), name="follow-bell")
                group.create_task(self._read(), name="follow-logs")
        except ExceptionGroup as error:
            self._failure = error.exceptions[0]
            for followers in self._followers.values():
                for follower in followers:
                    follower.refuse(RuntimeError("the log reader has failed"))
            raise self._failure from None

    async def _listen(self) -> None:
        async for news in self._queue.follow():
            if news.everything:
                self._moved(self._followers.keys())
            self._moved(news.moved & self._followers.keys(), news.ended | news.finished)

    def _moved(self, job_ids: Set[str], urgent: Set[str] = frozenset()) -> None:
        """There may be news of these jobs; what is urgent, or awaited as the first, is due now."""
        for job_id in job_ids & urgent:
            for follower in self._followers[job_id]:
                follower.call(is_urgent=True)
        at_once = job_ids & (urgent | self._starting.keys())
        self._call(at_once, at_once=True)
        self._call(job_ids - at_once, at_once=False)

    def _call(self, job_ids: Collection[str], at_once: bool) -> None:
        if self._due.add(job_ids, at_once):
            self._called.set()

    def _note_start(self, follower: Follower) -> None:
        """Note that it has shown something of each output, or leaves."""
        if follower.is_starting:
            follower.is_starting = False
            self._starting[follower.job_id] -= 1
            if not self._starting[follower.job_id]:
                del self._starting[follower.job_id]

    async def _read(self) -> None:
        now_s = asyncio.get_running_loop().time
        while True:
            await self._wait()
            begun_s = thread_time()
            at_once, together = self._due.take(now_s())
            waiting = self._waiting(at_once if together is None else at_once | together)
            for portion in _portions(waiting):
                await self._answer(portion)
            if together is not None:
                await asyncio.sleep(0)  # whoever was answered sends first
                self._due.begin_window(now_s(), thread_time() - begun_s)

    def _waiting(self, job_ids: Iterable[str]) -> list[Follower]:
        """Return who waits for news of these jobs; the others are called for when they ask."""
        waiting: list[Follower] = []
        for job_id in job_ids:
            for follower in self._followers.get(job_id, ()):
                if follower.is_waiting:
                    waiting.append(follower)
                else:
                    follower.call(is_urgent=False)
        return waiting

    async def _wait(self) -> None:
        """Return when somebody is due."""
        now_s = asyncio.get_running_loop().time
        while (wait_s := self._due.wait_s(now_s())) > 0:
            self._called.clear()
            try:
                async with asyncio.timeout(min(wait_s, POLL_INTERVAL_S)):
                    await self._called.wait()
            except TimeoutError:
                if wait_s > POLL_INTERVAL_S:
                    self._moved(self._followers.keys())

    async def _answer(self, followers: Sequence[Follower]) -> None:
        """Read all these logs at once; a follower without news goes on waiting."""
        requests = [request for follower in followers for request in follower.requests]
        for follower in followers:
            # What is called for from here on, this read may have missed.
            follower.may_have_news = follower.is_urgent = False
        try:
            logs = await self._queue.read(requests)
        except Unavailable as error:
            await self._bear(followers, error)
            return
        except Exception as error:
            await self._narrow(followers, error)
            return
        self._away_since_s = None
        first = 0
        for follower in followers:
            last = first + len(follower.requests)
            follower.tell(logs[first:last])
            first = last

    async def _narrow(self, followers: Sequence[Follower], error: Exception) -> None:
        """Find the logs that can't be read, by halves: they are nobody else's trouble."""
        half = len(followers) // 2
        if not half:
            followers[0].refuse(error)
            return
        await self._answer(followers[:half])
        await self._answer(followers[half:])

    async def _bear(self, followers: Sequence[Follower], error: Unavailable) -> None:
        now_s = asyncio.get_running_loop().time()
        if self._away_since_s is None:
            self._away_since_s = now_s
            log.warning("followers wait for Redis: %s", error)
        if now_s - self._away_since_s < PATIENCE_S:
            self._moved({follower.job_id for follower in followers})
            await asyncio.sleep(RETRY_INTERVAL_S)
            return
        for follower in followers:
            follower.refuse(Unavailable(str(error)))


def _portions(followers: Iterable[Follower]) -> Iterator[list[Follower]]:
    """Yield who is read for together: so many, or as many as may have so much to read."""
    portion: list[Follower] = []
    num_bytes = 0
    for follower in followers:
        portion.append(follower)
        num_bytes += sum(request.num_bytes for request in follower.requests)
        if len(portion) >= MAX_FOLLOWERS_PER_READ or num_bytes >= MAX_BYTES_PER_READ:
            yield portion
            portion, num_bytes = [], 0
    if portion:
        yield portion
