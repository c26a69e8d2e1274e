"""Whether Redis serves and has room, as known now: what needs it is refused at once."""

from __future__ import annotations

import asyncio

from scheduler_svc.queue import FULL_SHARE, JobQueue
from stepserve.protocol.errors import Exhausted, Unavailable

INTERVAL_S = 1.0
AWAY_INTERVAL_S = 0.2
# Who sweeps in this process asks as often how full it is, and has asked for us.
LOOK_AGE_S = 1.5
# Who does not answer a question within so long is slow: a job would be stored after seconds,
# or not at all, and clients would wait for each other.
SLOW_S = 1.0
# So many times one after another: once may be this process's own fault, on a busy machine.
NUM_SLOW = 2
# Of the memory that Redis may use. What is left when it is full is for the tokens of jobs that
# run; it counts as room again only some way below.
ROOM_SHARE = 0.93
FULL_RETRY_AFTER_MS = 2000


class RedisWatch:
    """Asks Redis again and again, for all calls of this process.

    A call that finds out by itself that Redis is away takes as long as the queue is patient;
    those after it shall not.
    """

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self._away = ""
        self._num_slow = 0
        self._is_full = False

    @property
    def _is_slow(self) -> bool:
        return self._num_slow >= NUM_SLOW

    @property
    def is_ready(self) -> bool:
        """Whether a job would be taken now, as far as Redis is concerned."""
        return not (self._away or self._is_slow or self._is_full)

    async def look(self) -> None:
        """Ask once."""
        try:
            async with asyncio.timeout(SLOW_S):
                await self._queue.ping()
                share = (await self._queue.memory(LOOK_AGE_S)).share
        except TimeoutError:
            self._num_slow += 1
        except Unavailable as error:
            self._away = str(error)
        else:
            self._away, self._num_slow = "", 0
            self._is_full = share >= (ROOM_SHARE if self._is_full else FULL_SHARE)

    @property
    def interval_s(self) -> float:
        """When to look again."""
        return AWAY_INTERVAL_S if self._away or self._num_slow else INTERVAL_S

    def failed(self, error: Unavailable) -> None:
        """A call has found out that Redis is away; true until the next look."""
        self._away = str(error)

    def check(self) -> None:
        """Raise Unavailable or Exhausted where no job can be taken now."""
        self.check_answers()
        if self._is_slow:
            raise Unavailable(f"Redis takes longer than {SLOW_S:g} s to answer")
        if self._is_full:
            raise Exhausted("Redis has hardly any memory left", FULL_RETRY_AFTER_MS)

    def check_answers(self) -> None:
        """Raise Unavailable where nothing can be read now."""
        if self._away:
            raise Unavailable(self._away)
