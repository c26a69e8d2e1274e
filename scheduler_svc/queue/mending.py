"""Writing again what a server lacks that was promoted, or started again."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import replace

from scheduler_svc.queue.codec import RECORD_ERRORS
from scheduler_svc.queue.link import Full
from scheduler_svc.queue.looks import Looks
from scheduler_svc.queue.shard import Shard
from scheduler_svc.queue.submitting import SOON_S, Submitting
from scheduler_svc.queue.suspicion import Suspicion
from stepserve.protocol.errors import Unavailable
from stepserve.protocol.job import JobSpec

log = logging.getLogger(__name__)

# Whoever asks for jobs that never were must not keep Redis busy with who it is.
LOOK_EVERY_S = 0.2
# How long after a break a job that is not there may be about to be stored again, by anybody.
MENDED_AFTER_S = 10.0


class Mending:
    """What one process remembers and Redis may not: jobs that it stored, claimed or struck."""

    def __init__(
        self, shard: Shard, looks: Looks, submitting: Submitting, suspicion: Suspicion
    ) -> None:
        self._shard = shard
        self._looks = looks
        self._submitting = submitting
        self._suspicion = suspicion
        self._continuity = looks.continuity
        # Of the breaks that were seen: those after which all was stored again.
        self._num_mended = 0
        # The break after which there was no room for that, and the look that found so.
        self._num_full = 0
        self._full_s = -math.inf

    async def look(self, most_s: float = 0.0) -> None:
        """See who answers; store again what that one may lack. Raises Unavailable.

        A look that was no longer ago will do.
        """
        await self._looks.look(most_s)
        await self._mend()

    async def _mend(self) -> None:
        """Store again what was found to be lost, or forget what can't be any more."""
        num_breaks, looked_s = self._looks.num_breaks, self._looks.looked_s
        if num_breaks == self._num_mended:
            self._submitting.age(looked_s)
            self._suspicion.age(looked_s)
        elif looked_s > self._full_s:
            is_whole = await self._is_stored_again(num_breaks)
            await self._suspicion.remind()
            if is_whole:
                self._num_mended = max(self._num_mended, num_breaks)
            else:
                self._full_s = looked_s

    async def _is_stored_again(self, num_breaks: int) -> bool:
        """Store all that was lost after so many breaks; False while Redis has no room for it.

        Whoever looks goes on: a sweep may make room, and the next look tries again.
        """
        try:
            if num_lost := await self._submitting.restore():
                log.warning("Redis had lost %d jobs, and they are stored again", num_lost)
            return True
        except Full as error:
            if num_breaks > self._num_full:
                log.error("what Redis has lost can't be stored again until it has room: %s", error)
                self._num_full = num_breaks
            return False

    async def reconnected(self) -> None:
        """Look, whatever else may be wrong: the doorbell goes on. Raises Unavailable."""
        try:
            await self.look()
        except Unavailable:
            raise
        except Exception:
            log.exception("what Redis may lack can't be found out")

    async def may_come_back(self) -> bool:
        """Whether a job that is not there may have been lost, and be stored again soon.

        What this process can store again is there already when it returns.
        """
        await self.look(LOOK_EVERY_S)
        return self._continuity.is_broken_since(time.monotonic() - MENDED_AFTER_S)

    async def restore(self, spec: JobSpec, *, has_output: bool) -> bool:
        """Store a job again that was claimed; False where it was forgotten, and not lost.

        All that its record had is there again but its output, which is of the same model if it
        ``has_output``. Whoever deleted it in the seconds after a break finds it there again. Not
        where there is no room, what is there of it is broken, or its client has another one by the
        same key. Raises Unavailable.
        """
        await self.look()
        if not await self.may_come_back():
            return False
        left_s = spec.deadline_s and max(SOON_S, spec.deadline_s - await self._shard.now_s())
        lost = replace(spec, deadline_s=left_s)
        try:
            is_there = await self._submitting.restore_claimed(lost, has_output=has_output)
            # Its record is as it was claimed.
            await self._suspicion.remind(spec.job_id)
            return is_there
        except Unavailable as error:
            if not isinstance(error, Full):
                raise
            log.error("job %s was lost, and there is no room to store it again", spec.job_id)
            return False
        except RECORD_ERRORS as error:
            log.error("job %s was lost, and can't be stored again: %s", spec.job_id, error)
            return False
