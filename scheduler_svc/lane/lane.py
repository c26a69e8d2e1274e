"""A lane: a scheduler's half of one worker. Its core, its stream, its lease."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

from scheduler_svc.core.adoption import Adoption
from scheduler_svc.core.config import CoreConfig
from scheduler_svc.core.events import (
    Claim,
    Claimed,
    Commit,
    Effect,
    Event,
    Requeue,
    Send,
    Ticked,
    WorkerLost,
)
from scheduler_svc.core.probation import Probation
from scheduler_svc.core.scheduler import Core
from scheduler_svc.lane.claimer import Claimant, Claimer, StepsAside
from scheduler_svc.lane.committer import Committer
from scheduler_svc.lane.held_jobs import HeldJobs
from scheduler_svc.lane.large_edges import LargeEdges
from scheduler_svc.lane.lease_keeper import LeaseKeeper, OutOfOrder
from scheduler_svc.lane.loop import Destination, Inbox
from scheduler_svc.lane.queue_watch import QueueWatch
from scheduler_svc.lane.replica import Replica
from scheduler_svc.lane.stop_watch import StopWatch
from scheduler_svc.lane.tasks import Stopped, first_errors, until
from scheduler_svc.lane.turns import Observers, TurnObserver
from scheduler_svc.lane.worker_stream import WorkerCrashed, WorkerGone, WorkerRefuses, WorkerStream
from scheduler_svc.queue import Accused, Fenced, Lease
from stepserve.protocol.errors import Unavailable
from stepserve.protocol.job import ClaimedJob
from stepserve.protocol.step import HelloReply, StepCommand

log = logging.getLogger(__name__)

# How late a job with a deadline may be ended.
TICK_S = 0.2
# How long whoever is to leave waits for Redis, before it gives its jobs back.
LEAVE_TIMEOUT_S = 0.5
# A step's time that was measured longer ago refuses nobody.
IDLE_S = 10.0


class LeaseLost(Exception):
    """Somebody else drives the worker now, or we cannot know: nothing may be written."""


class Lane:
    """Drives one worker for as long as the lease holds and the worker lives.

    The loop is the whole of it: drain the inbox, let the core decide, perform. Every
    destination has a task of its own, and what comes of an effect is an event again. The
    lease stays its holder's to release.
    """

    def __init__(
        self,
        replica: Replica,
        lease: Lease,
        stream: WorkerStream,
        reply: HelloReply,
        config: CoreConfig,
        observers: Sequence[TurnObserver] = (),
    ) -> None:
        settings, queue = replica.settings, replica.queue
        self._replica = replica
        self._lease = lease
        self._stream = stream
        self._core = Core(config)
        self._inbox = Inbox()
        self._held = HeldJobs()
        self._stops = StopWatch(replica.card.tokenizer, self._held.running)
        self._edges = LargeEdges(queue, self._held, replica.edge_room)
        self._watch = QueueWatch(queue, lease, self._held, self._inbox)
        prefer = self._core.num_cached_tokens if settings.prefix_caching else None
        claimant = Claimant(lease, reply.info.fingerprint, reply.info.max_context, prefer)
        self._probation = Probation(config.max_steps_in_flight)
        self._claimer = Claimer(
            queue, claimant, self._probation, self._watch.requeue_orphans, self._take
        )
        self._committer = Committer(queue, lease, self._inbox, self._held, self._claimer.written)
        self._commands: Destination[StepCommand] = Destination(stream.send)
        self._commits: Destination[Commit | Requeue] = Destination(self._committer.perform)
        self._keeper = LeaseKeeper(queue, lease, self._pace)
        self._observers = Observers(observers)
        self._reported_s = 0.0
        self._num_blocks = config.num_blocks

    def adopt(self, adoption: Adoption) -> None:
        """Begin with what another lane has begun. Before ``run``."""
        event = adoption.event
        self._held.take(event.jobs)
        self._edges.take(event.jobs)
        self._claimer.inherited(event.jobs)
        outputs = {(job.spec.job_id, o.index): o for job in event.jobs for o in job.outputs}
        for sequence in (*event.kept, *event.departed):
            key = sequence.job_id, sequence.index
            output_ids = outputs[key].token_ids if key in outputs else ()
            self._stops.watch(sequence.sequence_id, sequence.job_id, output_ids)
        self._inbox.put(event)
        for report in adoption.reports:
            self._inbox.put(self._stops.annotate(report))
        self._stops.forget(sequence.sequence_id for sequence in event.departed)

    async def run(self, stop: asyncio.Event) -> bool:
        """Drive until ``stop``, or until the worker or the lease is lost.

        Returns whether the worker goes on as it is, with whoever takes the lease next, and what
        is claimed under that: then all that is known here is written. Else the jobs were given
        back. Raises LeaseLost where nothing is ours to give, and whatever else a task raises:
        then all jobs that were here are suspects.
        """
        tasks: list[Coroutine[Any, Any, None]] = [
            self._plan(),
            self._read_reports(),
            self._watch.run(),
            self._keeper.run(),
            self._stream.watch(),
            self._commands.run(),
            self._commits.run(),
            self._claimer.run(),
            self._edges.run(),
            self._tell_time(),
            until(stop),
        ]
        errors = await first_errors(tasks)
        if any(isinstance(error, Fenced) for error in errors):
            raise LeaseLost(f"the lease of {self._lease.worker_id} was taken over")
        if all(isinstance(error, Stopped) for error in errors) and await self._leave():
            return True
        failures = [error for error in errors if _is_failure(error)]
        if not failures:
            kind, reason = type(errors[0]).__name__, str(errors[0])
            log.info("lane %s ends: %s %s", self._lease.worker_id, kind, reason)
            if gone := [error for error in errors if isinstance(error, WorkerGone)]:
                await self._accuse_steps(gone)
            failures = await self._hand_over()
        if failures:
            await self._accuse(failures[0])
            raise failures[0]
        return False

    async def _plan(self) -> None:
        self._turn(self._inbox.take())  # asks for jobs
        while True:
            await self._inbox.wait()
            # Events stay in the inbox until the lease is sure: whatever happens meanwhile,
            # the hand-over finds them there.
            await self._keeper.is_sure.wait()
            self._turn(self._inbox.take())

    def _turn(self, events: Sequence[Event]) -> None:
        self._handle(events, self._perform)

    def _handle(self, events: Sequence[Event], perform: Callable[[Effect], None]) -> None:
        effects: Sequence[Effect] = ()
        try:
            effects = self._core.handle(events)
            # It must know what the core was told before it hears what the core wants now.
            self._claimer.told(events)
            # The worker may be waiting, and nobody else is: its commands go first.
            for effect in sorted(effects, key=_is_for_others):
                perform(effect)
            self._held.drop(events, effects, self._core)
        finally:
            # Also a turn that raised: it is the one to be replayed.
            self._observers.observe(events, effects, self._core)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Send(command):
                self._stops.sent(command)
                self._held.sent(command)
                self._commands.put(command)
            case Claim():
                self._claimer.want(effect)
            case _:
                self._give_back(effect)

    def _give_back(self, effect: Effect) -> None:
        """Perform what goes to Redis, and nothing else."""
        if isinstance(effect, Commit | Requeue):
            self._commits.put(effect)

    def _pace(self) -> tuple[int, int]:
        """How long a step of one token takes (us; 0 where that was not seen of late), and blocks
        that sequences hold.
        """
        is_idle = time.monotonic() - self._reported_s > IDLE_S
        step_us = 0 if is_idle else int(self._core.step_us)
        return step_us, self._num_blocks - self._core.num_free_blocks

    async def _read_reports(self) -> None:
        async for report in self._stream.reports():
            self._reported_s = time.monotonic()
            self._inbox.put(self._stops.annotate(report))

    def _take(self, jobs: Sequence[ClaimedJob]) -> None:
        self._held.take(jobs)
        self._edges.take(jobs)
        self._inbox.put(Claimed(tuple(jobs)))

    async def _tell_time(self) -> None:
        """Tell the core what time it is while there are jobs with a deadline."""
        while True:
            await asyncio.sleep(TICK_S)
            if self._held.has_deadline:
                with contextlib.suppress(Unavailable):
                    self._inbox.put(Ticked(await self._replica.queue.now_s()))

    async def _accuse(self, error: Exception) -> None:
        """Something broke the lane, and nobody knows what: any of its jobs may be why.

        What was reported before is written, so that a suspect goes on from there.
        """
        with self._telling():
            async with asyncio.timeout(self._replica.settings.lease_ttl_s):
                with contextlib.suppress(Exception):
                    await self._commits.flush()
                claimed = await self._replica.queue.claimed(self._lease)
                accused = self._probation.job_ids & claimed or claimed
                await self._strike(accused, f"{type(error).__name__}: {error}", has_crashed=True)

    async def _accuse_steps(self, gone: Sequence[WorkerGone]) -> None:
        """The worker crashed, or was lost, in steps that it owes: any job in them may be why.

        Of those that are tried it is one that has not shown yet that it was not.
        """
        steps = self._stream.unanswered
        there = self._core.jobs_of(steps)
        accused = self._probation.job_ids & there or there
        if not accused:
            return
        error = await self._stream.last_word(gone)
        has_crashed, step = isinstance(error, WorkerCrashed), steps[0].step
        how = "crashed" if has_crashed else "was lost"
        cause = str(error).removeprefix(f"step {step} failed: ")
        problem = f"its worker {how} in step {step}: {cause}"
        with self._telling():
            async with asyncio.timeout(self._replica.settings.lease_ttl_s):
                await self._strike(accused, problem, has_crashed=has_crashed)

    async def _strike(self, job_ids: frozenset[str], problem: str, *, has_crashed: bool) -> None:
        accused, running = [], self._held.running
        for job_id in sorted(job_ids):
            num_outputs = running[job_id].sampling.n if job_id in running else 1
            num_more = num_outputs * self._probation.num_tokens
            accused.append(Accused(job_id, self._held.num_tokens(job_id), num_more))
        queue, lease = self._replica.queue, self._lease
        num = await queue.strike(lease, accused, problem, has_crashed=has_crashed)
        if num:
            log.error("lane %s: %s; %d jobs are suspects", lease.worker_id, problem, num)

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except (TimeoutError, Unavailable, Fenced):
            log.warning("lane %s failed, and nobody could be told", self._lease.worker_id)

    async def _leave(self) -> bool:
        """Write what is on its way to Redis; whether that went well.

        Reports that were not absorbed yet are kept by the worker, for the next lane.
        """
        try:
            async with asyncio.timeout(LEAVE_TIMEOUT_S):
                await self._commits.flush()
        except Exception as error:
            log.info("lane %s: %s, its jobs wait again", self._lease.worker_id, error)
            return False
        return True

    async def _hand_over(self) -> list[Exception]:
        """Write what was reported, and give the jobs back.

        Returns what went wrong in the core, if anything did: then nothing was given back.
        """
        events = [*self._inbox.take(), WorkerLost()]
        try:
            self._handle(events, self._give_back)
        except Exception as error:
            return [error]
        try:
            async with asyncio.timeout(self._replica.settings.lease_ttl_s):
                await self._commits.flush()
        except Fenced:
            raise LeaseLost(f"the lease of {self._lease.worker_id} was taken over") from None
        except (TimeoutError, Unavailable):
            # The claims stay with the lease; whoever takes it when it expires requeues them.
            log.warning("lane %s: Redis is away, its jobs wait there", self._lease.worker_id)
        except Exception as error:
            return [error]
        return []


def _is_for_others(effect: Effect) -> bool:
    return not isinstance(effect, Send)


def _is_failure(error: Exception) -> bool:
    """Whether something is wrong with the lane, the worker, or a job, and not just gone."""
    is_orderly = isinstance(error, Stopped | OutOfOrder | StepsAside | WorkerGone | Unavailable)
    return not is_orderly or isinstance(error, WorkerRefuses)
