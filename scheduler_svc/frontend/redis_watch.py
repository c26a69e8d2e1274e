"""Whether Redis serves and has room, as known now: what needs it is refused at once."""

from __future__ import annotations

from scheduler_svc.queue import FULL_SHARE, JobQueue
from stepserve.protocol.errors import Exhausted, Unavailable

INTERVAL_S = 1.0
AWAY_INTERVAL_S = 0.2
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
        self._is_full = False

    @property
    def is_ready(self) -> bool:
        """Whether a job would be taken now, as far as Redis is concerned."""
        return not (self._away or self._is_full)

    async def look(self) -> None:
        """Ask once."""
        try:
            share = (await self._queue.memory()).share
        except Unavailable as error:
            self._away = str(error)
        else:
            self._away = ""
            self._is_full = share >= (ROOM_SHARE if self._is_full else FULL_SHARE)

    @property
    def interval_s(self) -> float:
        """When to look again."""
        return AWAY_INTERVAL_S if self._away else INTERVAL_S

    def failed(self, error: Unavailable) -> None:
        """A call has found out that Redis is away; true until the next look."""
        self._away = str(error)

    def check(self) -> None:
        """Raise Unavailable or Exhausted where no job can be taken now."""
        if self._away:
            raise Unavailable(self._away)
        if self._is_full:
            raise Exhausted("Redis has hardly any memory left", FULL_RETRY_AFTER_MS)
