"""Asks the queue for jobs, as many and as urgent as a lane's core wants."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from scheduler_svc.core.events import Cancelled, Claim, Claimed, Event
from scheduler_svc.core.probation import Probation
from scheduler_svc.lane.held_jobs import OutputKey
from scheduler_svc.lane.vetting import outgrown_need, problem_of
from scheduler_svc.queue import JobQueue, Lease, Prefer
from stepserve.protocol.errors import Unavailable
from stepserve.protocol.job import ClaimedJob, CommitRow

log = logging.getLogger(__name__)

DOORBELL_WAIT_S = 1.0
# A lane starts empty, and so does the one whose worker has crashed: mostly nobody waits for this.
MAKE_WAY_AFTER_S = 30.0


class StepsAside(Exception):
    """The lane is to give back what it holds: suspects are tried at a worker that holds nothing."""


@dataclass(frozen=True, slots=True)
class Claimant:
    """For whom is claimed: a lease, and what its worker can run and has cached."""

    lease: Lease
    fingerprint: str
    max_context: int
    prefer: Prefer | None = None


class Claimer:
    """One wish at a time: the newest counts, and is answered once.

    ``requeue_orphans`` is awaited before each look at the queue, ``take`` gets what was
    claimed. A job that can't be run at all is ended instead. Suspects go first, where the lane
    holds nothing: while they are on ``probation``, nobody is claimed. So with one worker all
    others wait until each suspect has got a few tokens further, or has crashed it: they could
    not run beside a crash either, and it is soon over. With more workers they go on elsewhere.
    """

    def __init__(
        self,
        queue: JobQueue,
        claimant: Claimant,
        probation: Probation,
        requeue_orphans: Callable[[], Awaitable[None]],
        take: Callable[[Sequence[ClaimedJob]], None],
    ) -> None:
        self._queue = queue
        self._claimant = claimant
        self._probation = probation
        self._requeue_orphans = requeue_orphans
        self._take = take
        self._moved = asyncio.Event()
        self._passed: list[str] = []
        # Whether suspects are tried here; whether that may be what Redis has.
        self._is_canary = self._was_canary = False
        self._kept_waiting_since_s = math.inf
        self._claim: Claim | None = None
        self._is_answered = False
        self._wished = asyncio.Event()
        self._eased = asyncio.Event()

    def want(self, claim: Claim) -> None:
        """Let this wish replace the one before.

        Between an answer and its being absorbed a wish is void: it does not know of the jobs
        that came. The core then wishes anew.
        """
        if self._is_answered:
            return
        if self._claim is None or claim.max_rank > self._claim.max_rank:
            self._eased.set()  # Jobs that were passed over may be wanted now.
        self._claim = claim
        self._wished.set()

    def inherited(self, jobs: Sequence[ClaimedJob]) -> None:
        """These were claimed by the lane before, and go on here; some may be suspects."""
        self._probation.begin(jobs)
        self._is_canary = self._probation.is_on
        self._was_canary = True

    def absorbed(self) -> None:
        """The core knows what was taken: what it wishes from now on counts again."""
        self._is_answered = False

    def told(self, events: Sequence[Event]) -> None:
        """Take note of what the core was told, before what it wishes then."""
        for event in events:
            if isinstance(event, Claimed):
                self.absorbed()
            elif isinstance(event, Cancelled):
                self._probation.gone(event.job_ids)
                self._moved.set()

    def written(self, rows: Sequence[CommitRow], dropped: Sequence[OutputKey]) -> None:
        """Rows are in Redis, but for those of ``dropped`` outputs. A probation may be over."""
        self._probation.written(rows, dropped)
        self._moved.set()

    async def run(self) -> None:
        """Claim again and again, until cancelled.

        Raises Fenced where the lease is lost, StepsAside where it is needed for suspects.
        """
        while True:
            await self._wished.wait()
            self._eased.clear()
            seen = self._queue.num_arrivals
            claim = self._claim
            assert claim is not None, "a wish stands until it is answered"
            try:
                jobs = await self._ask(claim)
            except Unavailable:
                await asyncio.sleep(DOORBELL_WAIT_S)
                continue
            if jobs or not claim.stands:
                self._claim, self._is_answered = None, True
                self._wished.clear()
                self._take(jobs)
            else:
                await self._wait(seen)

    async def _ask(self, claim: Claim) -> Sequence[ClaimedJob]:
        await self._requeue_orphans()
        await self._end_trial()
        while True:
            claimed = await self._claimed(claim)
            jobs = [job for job in claimed if not await self._is_refused(job)]
            if jobs or not claimed:
                self._probation.begin(jobs)
                return jobs

    async def _claimed(self, claim: Claim) -> Sequence[ClaimedJob]:
        claimant, queue = self._claimant, self._queue
        if claim.max_rank == math.inf:
            suspects = await queue.claim_suspects(
                claimant.lease, claimant.fingerprint, claim.max_jobs, claimant.max_context
            )
            if suspects.jobs:
                self._is_canary = self._was_canary = True
                return suspects.jobs
            if self._makes_way(suspects.is_lane_wanted):
                raise StepsAside("suspects have waited long for a worker")
        max_jobs = await queue.allowance(claimant.lease, claim.max_jobs)
        return await queue.claim(
            claimant.lease,
            claimant.fingerprint,
            max_jobs,
            claim.max_rank,
            prefer=claimant.prefer,
            max_context=claimant.max_context,
        )

    def _makes_way(self, is_lane_wanted: bool) -> bool:
        """Whether suspects have waited long for an empty worker, and ours is to be it."""
        now_s = time.monotonic()
        since_s = min(self._kept_waiting_since_s, now_s) if is_lane_wanted else math.inf
        self._kept_waiting_since_s = since_s
        return now_s - since_s > MAKE_WAY_AFTER_S

    async def _end_trial(self) -> None:
        """Wait until the suspects, if there are any, have shown that they break nothing.

        Raises StepsAside where others wait to be tried, which is done beside nobody.
        """
        while True:
            self._moved.clear()
            self._passed += self._probation.passed()
            if self._passed:
                await self._queue.absolve(self._passed)
                self._passed = []
            if not self._probation.is_on:
                break
            await self._moved.wait()
        if self._is_canary and await self._queue.has_suspects():
            raise StepsAside("others are suspects still")
        if self._was_canary:
            await self._queue.retire(self._claimant.lease)
            self._is_canary = self._was_canary = False

    async def _is_refused(self, job: ClaimedJob) -> bool:
        await asyncio.sleep(0)  # There may be many, and steps do not wait for them.
        job_id, max_context = job.spec.job_id, self._claimant.max_context
        if problem := problem_of(job, max_context):
            log.error("job %s can't be run, and ends", job_id)
            await self._queue.fail(job_id, problem)
            return True
        if need := outgrown_need(job, max_context):
            await self._queue.outgrow(self._claimant.lease, job_id, need)
        return need > 0

    async def _wait(self, seen: int) -> None:
        """Wait until jobs arrived, or more of them are wanted."""
        waits = (self._queue.wait_for_jobs(seen, DOORBELL_WAIT_S), self._eased.wait())
        tasks = [asyncio.ensure_future(wait) for wait in waits]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
