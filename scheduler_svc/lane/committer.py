"""Writes what a lane's core wants written to Redis, step after step, and answers it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from scheduler_svc.core.events import Commit, Committed, Requeue
from scheduler_svc.lane.loop import Inbox
from scheduler_svc.lane.remembered import RememberedOutput
from scheduler_svc.queue import APPLIED, RECORD_ERRORS, JobQueue, Lease, RowAnswer, RowKind
from stepserve.protocol.errors import Unavailable
from stepserve.protocol.job import ClaimedJob, CommitRow

log = logging.getLogger(__name__)

RETRY_WAIT_S = 0.2
ENDED = RowAnswer(RowKind.ENDED)

OutputKey = tuple[str, int]


class Committer:
    """Commits and requeues for one lease, in the order the core asked for them.

    While Redis is away it tries again and again: the worker keeps its reports and the
    core pauses. It also remembers the outputs of the jobs that it holds, because a log
    that lost its tail (an AOF's last second, a failover) is refilled from here.
    """

    def __init__(
        self,
        queue: JobQueue,
        lease: Lease,
        inbox: Inbox,
        written: Callable[[Sequence[CommitRow], Sequence[OutputKey]], None] = lambda *_: None,
    ) -> None:
        self._queue = queue
        self._lease = lease
        self._inbox = inbox
        self._written = written
        self._outputs: dict[OutputKey, RememberedOutput] = {}

    @property
    def job_ids(self) -> frozenset[str]:
        """Jobs whose outputs are remembered: not all their rows are known to be in Redis."""
        return frozenset(job_id for job_id, _ in self._outputs)

    def remember(self, jobs: Sequence[ClaimedJob]) -> None:
        """Take note of what claimed jobs have already.

        A queue that lost its last moments may give a job that is here: what is remembered
        of that is more than what came with it.
        """
        for job in jobs:
            for output in job.outputs:
                key = job.spec.job_id, output.index
                if output.finish is None and key not in self._outputs:
                    self._outputs[key] = known = RememberedOutput()
                    known.extend(output.token_ids, output.logprobs)

    def forget(self, job_ids: Sequence[str]) -> None:
        """Drop the outputs of jobs that have ended without us."""
        for key in [key for key in self._outputs if key[0] in job_ids]:
            del self._outputs[key]

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
        rows, ended = effect.rows, list[OutputKey]()
        if rows:
            self._extend(rows)
            answers = await self._write(rows)
            if answers.count(APPLIED) < len(answers):
                pairs = zip(rows, answers, strict=True)
                ended = [_key(row) for row, answer in pairs if answer.kind is RowKind.ENDED]
            for key in (*ended, *(_key(row) for row in rows if row.finish is not None)):
                self._outputs.pop(key, None)
        self._written(rows, ended)
        self._inbox.put(Committed(effect.step, tuple(ended)))

    def _extend(self, rows: Sequence[CommitRow]) -> None:
        job_ids, indexes, offsets, token_ids, logprobs, _ = zip(*rows, strict=True)
        outputs = map(self._outputs.get, zip(job_ids, indexes, strict=True))
        # Once for each row of each step.
        for known, offset, new_ids, entries in zip(
            outputs, offsets, token_ids, logprobs, strict=True
        ):
            if known is None:  # The job ended without us; its rows will be ignored.
                continue
            num_known = len(known.token_ids)
            if num_known == offset and len(new_ids) == 1 and not entries:
                known.token_ids.append(new_ids[0])
                continue
            # A commit that is tried again finds its tokens remembered already.
            num_new = offset + len(new_ids) - num_known
            if 0 < num_new <= len(new_ids):
                known.extend(new_ids[-num_new:], entries[-num_new:])

    async def _write(self, rows: Sequence[CommitRow]) -> list[RowAnswer]:
        answers = await self._commit_each(rows)
        short = [i for i, answer in enumerate(answers) if answer.kind is RowKind.SHORT]
        if short:
            log.warning("%d token logs lost their tails and are written again", len(short))
            refills = [self._refill(rows[i], answers[i].length) for i in short]
            for i, answer in zip(short, await self._commit_each(refills), strict=True):
                answers[i] = answer if answer.kind is not RowKind.SHORT else ENDED
        return answers

    async def _commit_each(self, rows: Sequence[CommitRow]) -> list[RowAnswer]:
        """Commit the rows in one call; where that fails, find by halves whose fault it is.

        Committing again is harmless, so the other rows are there in the end. A job whose row
        can't be written ends.
        """
        try:
            return await self._queue.commit(self._lease, rows)
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
        known = self._outputs.get((row.job_id, row.index))
        if known is None or len(known) < row.offset + len(row.token_ids):
            return row
        lost = known.since(length)
        return CommitRow(row.job_id, row.index, length, lost.token_ids, lost.logprobs, row.finish)


def _key(row: CommitRow) -> OutputKey:
    return row.job_id, row.index
