"""Writes what a lane's core wants written to Redis, step after step, and answers it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence

from scheduler_svc.core.events import Commit, Committed, Requeue
from scheduler_svc.lane.held_jobs import HeldJobs, OutputKey
from scheduler_svc.lane.loop import Inbox
from scheduler_svc.queue import APPLIED, RECORD_ERRORS, JobQueue, Lease, RowAnswer, RowKind
from stepserve.protocol.errors import Unavailable
from stepserve.protocol.job import CommitRow

log = logging.getLogger(__name__)

RETRY_WAIT_S = 0.05
ENDED = RowAnswer(RowKind.ENDED)
UNKNOWN = RowAnswer(RowKind.UNKNOWN)


class Committer:
    """Commits and requeues for one lease, in the order the core asked for them.

    While Redis is away it tries again and again: the worker keeps its reports and the
    core pauses. A log that lost its tail is written again from what is ``held``, and so is a
    job that was lost: it waits then. ``written`` is told the rows of each commit, and which
    outputs had theirs dropped: they have ended, are another lease's, or were lost.
    """

    def __init__(
        self,
        queue: JobQueue,
        lease: Lease,
        inbox: Inbox,
        held: HeldJobs,
        written: Callable[[Sequence[CommitRow], Sequence[OutputKey]], None] = lambda *_: None,
    ) -> None:
        self._queue = queue
        self._lease = lease
        self._inbox = inbox
        self._held = held
        self._written = written

    async def perform(self, effect: Commit | Requeue) -> None:
        """Do it, however often Redis must be asked. Raises Fenced where the lease is lost."""
        while True:
            try:
                if isinstance(effect, Requeue):
                    await self._queue.requeue(self._lease, effect.job_ids)
                else:
                    await self._commit(effect)
                return
            except Unavailable:
                await asyncio.sleep(RETRY_WAIT_S)

    async def _commit(self, effect: Commit) -> None:
        rows, dropped = effect.rows, list[OutputKey]()
        if rows:
            self._held.remember(rows)
            answers = await self._write(rows)
            if answers.count(APPLIED) < len(answers):
                pairs = zip(rows, answers, strict=True)
                dropped = [_key(row) for row, answer in pairs if answer.kind is RowKind.ENDED]
            self._held.written((*dropped, *(_key(row) for row in rows if row.finish is not None)))
        self._written(rows, dropped)
        self._inbox.put(Committed(effect.step, tuple(dropped)))

    async def _write(self, rows: Sequence[CommitRow]) -> list[RowAnswer]:
        answers = await self._commit_each(rows)
        if answers.count(APPLIED) == len(answers):
            return answers
        if UNKNOWN in answers:
            pairs = zip(rows, answers, strict=True)
            await self._restore({row.job_id for row, answer in pairs if answer == UNKNOWN})
            answers = [ENDED if answer == UNKNOWN else answer for answer in answers]
        short = [i for i, answer in enumerate(answers) if answer.kind is RowKind.SHORT]
        if short:
            log.warning("%d token logs lost their tails and are written again", len(short))
            refills = [self._refill(rows[i], answers[i].length) for i in short]
            for i, answer in zip(short, await self._commit_each(refills), strict=True):
                answers[i] = answer if answer.kind is not RowKind.SHORT else ENDED
        return answers

    async def _restore(self, job_ids: Collection[str]) -> None:
        """Store jobs again that a failover took; nothing where they were forgotten on purpose."""
        for job_id in job_ids:
            spec = self._held.spec_of(job_id)
            if spec is None:
                continue
            if await self._queue.restore(spec, has_output=self._held.has_output(spec)):
                log.warning("job %s was lost, and waits again", job_id)

    async def _commit_each(self, rows: Sequence[CommitRow]) -> list[RowAnswer]:
        """Commit the rows in one call; where that fails, find by halves whose fault it is.

        Committing again is harmless, so the other rows are there in the end. A job whose row
        can't be written ends.
        """
        try:
            return await self._queue.commit(self._lease, rows, self._held.cached)
        except RECORD_ERRORS as error:
            if len(rows) == 1:
                return [await self._give_up(rows[0], error)]
        half = len(rows) // 2
        return await self._commit_each(rows[:half]) + await self._commit_each(rows[half:])

    async def _give_up(self, row: CommitRow, error: Exception) -> RowAnswer:
        log.error("the output of job %s can't be written, and it ends", row.job_id, exc_info=error)
        problem = f"its output can't be written: {type(error).__name__}: {error}"
        await self._queue.fail(row.job_id, problem)
        return ENDED

    def _refill(self, row: CommitRow, length: int) -> CommitRow:
        """Return the row with all that its log lacks, or as it is where that is not known.

        The second is answered SHORT again, and the core drops the output: whoever claims
        the job next goes on from what its log has.
        """
        lost = self._held.lost_tail(row, length)
        if lost is None:
            return row
        return CommitRow(row.job_id, row.index, length, lost.token_ids, lost.logprobs, row.finish)


def _key(row: CommitRow) -> OutputKey:
    return row.job_id, row.index
