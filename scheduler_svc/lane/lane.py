"""A lane: a scheduler's half of one worker. Its core, its stream, its lease."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from scheduler_svc.core.config import CoreConfig
from scheduler_svc.core.events import (
    Cancelled,
    Claim,
    Claimed,
    Commit,
    Committed,
    Effect,
    Event,
    Requeue,
    Send,
    Ticked,
    WorkerLost,
)
from scheduler_svc.core.probation import Probation
from scheduler_svc.core.scheduler import Core
from scheduler_svc.lane.claimer import Claimer, Suitor
from scheduler_svc.lane.committer import Committer
from scheduler_svc.lane.lease_keeper import LeaseKeeper, OutOfOrder
from scheduler_svc.lane.loop import Destination, Inbox
from scheduler_svc.lane.recorder import StepRecorder
from scheduler_svc.lane.stop_watch import StopWatch
from scheduler_svc.lane.worker_stream import WorkerGone, WorkerRefuses, WorkerStream
from scheduler_svc.queue import Fenced, JobQueue, Lease
from scheduler_svc.settings import SchedulerSettings
from scheduler_svc.text.model_card import ModelCard
from scheduler_svc.trace.recorder import TraceRecorder
from stepserve.protocol.errors import Unavailable
from stepserve.protocol.job import ClaimedJob, CommitRow, JobSpec
from stepserve.protocol.step import HelloReply, StepCommand

log = logging.getLogger(__name__)

# A lane whose commits lag behind pauses at this share of the reports a worker keeps.
KEPT_REPORTS_SHARE = 0.75
# How late a job with a deadline may be ended.
TICK_S = 0.2
# A step's time that was measured longer ago refuses nobody.
IDLE_S = 10.0


class LeaseLost(Exception):
    """Somebody else drives the worker now, or we cannot know: nothing may be written."""


@dataclass(frozen=True, slots=True)
class Shard:
    """What every lane of a model shares: its queue, card, settings, and our name."""

    queue: JobQueue
    card: ModelCard
    settings: SchedulerSettings
    holder: str


def core_config(lease: Lease, reply: HelloReply, settings: SchedulerSettings) -> CoreConfig:
    """Return the core's limits: the settings', within what the worker can do."""
    info = reply.info
    return CoreConfig(
        epoch=lease.epoch,
        incarnation=info.incarnation,
        first_step=reply.last_step + 1,
        num_blocks=info.num_blocks,
        block_size=info.block_size,
        max_context=info.max_context,
        max_batch_size=min(settings.max_batch_size, info.max_batch_size),
        max_step_tokens=min(settings.max_step_tokens, info.max_step_tokens),
        max_steps_in_flight=settings.max_steps_in_flight,
        max_uncommitted_steps=max(1, int(info.max_kept_reports * KEPT_REPORTS_SHARE)),
        batching=settings.batching,
        prefix_caching=settings.prefix_caching,
        enable_preemption=settings.enable_preemption,
        preemption_margin=settings.preemption_margin,
        target_step_us=int(settings.target_step_ms * 1000),
    )


class Lane:
    """Drives one worker for as long as the lease holds and the worker lives.

    The loop is the whole of it: drain the inbox, let the core decide, perform. Every
    destination has a task of its own, and what comes of an effect is an event again.
    """

    def __init__(
        self,
        shard: Shard,
        lease: Lease,
        stream: WorkerStream,
        reply: HelloReply,
        recorder: StepRecorder | None = None,
        trace: TraceRecorder | None = None,
    ) -> None:
        self._shard = shard
        self._lease = lease
        self._stream = stream
        self._core = Core(core_config(lease, reply, shard.settings))
        self._inbox = Inbox()
        self._specs: dict[str, JobSpec] = {}
        self._stops = StopWatch(shard.card.tokenizer, self._specs)
        self._committer = Committer(shard.queue, lease, self._inbox, self._written)
        self._commands: Destination[StepCommand] = Destination(stream.send)
        self._commits: Destination[Commit | Requeue] = Destination(self._committer.perform)
        self._probation = Probation(shard.settings.max_steps_in_flight)
        prefer = self._core.num_cached_tokens if shard.settings.prefix_caching else None
        suitor = Suitor(lease, reply.info.fingerprint, reply.info.max_context, prefer)
        self._claimer = Claimer(shard.queue, suitor, self._probation, self._moor, self._take)
        self._keeper = LeaseKeeper(shard.queue, lease, self._step_us)
        self._recorder = recorder
        self._trace = trace
        self._is_adrift = False
        self._reported_s = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Drive until ``stop``, or until the worker or the lease is lost; then hand over.

        Raises LeaseLost where nothing could be handed over, because it is not ours, and
        whatever else a task raises: then all jobs that were here are suspects.
        """
        tasks: list[Coroutine[Any, Any, None]] = [
            self._plan(),
            self._read_reports(),
            self._watch_cancels(),
            self._keeper.run(),
            self._stream.watch(),
            self._commands.run(),
            self._commits.run(),
            self._claimer.run(),
            self._tell_time(),
            _until(stop),
        ]
        errors = await _first_errors(tasks)
        if any(isinstance(error, Fenced) for error in errors):
            raise LeaseLost(f"the lease of {self._lease.worker_id} was taken over")
        failures = [error for error in errors if _is_failure(error)]
        if not failures:
            kind, reason = type(errors[0]).__name__.lstrip("_"), str(errors[0])
            log.info("lane %s ends: %s %s", self._lease.worker_id, kind, reason)
            failures = await self._hand_over()
        if failures:
            await self._accuse(failures[0])
            raise failures[0]

    async def _plan(self) -> None:
        self._turn(())  # asks for jobs
        while True:
            await self._inbox.wait()
            # Events stay in the inbox until the lease is sure: whatever happens meanwhile,
            # the hand-over finds them there.
            await self._keeper.is_sure.wait()
            self._turn(self._inbox.take())

    def _turn(self, events: Sequence[Event]) -> None:
        effects = self._handle(events)
        if any(isinstance(event, Claimed) for event in events):
            self._claimer.absorbed()
        # The worker may be waiting, and nobody else is: its commands go first.
        for effect in sorted(effects, key=_is_for_others):
            self._perform(effect)
        for event in events:
            if isinstance(event, Cancelled):
                self._forget(event.job_ids)
                self._committer.forget(event.job_ids)
                self._probation.gone(event.job_ids)
                self._claimer.moved()
            elif isinstance(event, Committed):
                self._forget({job_id for job_id, _ in event.ended})
        if self._recorder is not None:
            self._recorder.observe(events, effects, self._core)

    def _handle(self, events: Sequence[Event]) -> Sequence[Effect]:
        effects: Sequence[Effect] = ()
        try:
            effects = self._core.handle(events)
        finally:
            # Also a turn that raised: it is the one to be replayed.
            if self._trace is not None:
                self._trace.observe(events, effects)
        return effects

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Send(command):
                self._stops.sent(command)
                self._commands.put(command)
            case Commit():
                self._commits.put(effect)
                self._forget({row.job_id for row in effect.rows if row.finish is not None})
            case Requeue():
                self._commits.put(effect)
            case Claim():
                self._claimer.want(effect)

    def _forget(self, job_ids: Iterable[str]) -> None:
        """Drop what is known of these jobs, unless another of their outputs goes on."""
        if job_ids:
            for job_id in frozenset(job_ids) - self._core.job_ids:
                self._specs.pop(job_id, None)

    def _step_us(self) -> int:
        """How long a step of one token takes; 0 where that was not seen of late."""
        is_idle = time.monotonic() - self._reported_s > IDLE_S
        return 0 if is_idle else int(self._core.step_us)

    async def _read_reports(self) -> None:
        async for report in self._stream.reports():
            self._reported_s = time.monotonic()
            self._inbox.put(self._stops.annotate(report))

    def _written(self, rows: Sequence[CommitRow], ended: Sequence[tuple[str, int]]) -> None:
        self._probation.written(rows, ended)
        self._claimer.moved()

    def _take(self, jobs: Sequence[ClaimedJob]) -> None:
        """Jobs were claimed: remember what is needed of them, tell the core."""
        for job in jobs:
            self._specs[job.spec.job_id] = job.spec
        self._committer.remember(jobs)
        self._inbox.put(Claimed(tuple(jobs)))

    async def _tell_time(self) -> None:
        """Tell the core what time it is while there are jobs with a deadline."""
        while True:
            await asyncio.sleep(TICK_S)
            if any(spec.deadline_s for spec in self._specs.values()):
                with contextlib.suppress(Unavailable):
                    self._inbox.put(Ticked(await self._shard.queue.now_s()))

    async def _moor(self) -> None:
        """After a time in which Redis may have lost something: give back what nobody runs.

        A finish that a failover lost leaves its job claimed and forgotten. Between two
        claims, every job of the lease is in the core, or in a commit, or such a one.
        """
        if self._is_adrift:
            held = self._core.job_ids | self._committer.job_ids | self._specs.keys()
            claimed = await self._shard.queue.claimed(self._lease)
            if orphans := tuple(claimed - held):
                log.warning("lane %s: %d jobs wait again", self._lease.worker_id, len(orphans))
                await self._shard.queue.requeue(self._lease, orphans)
            self._is_adrift = False

    async def _watch_cancels(self) -> None:
        """Hear of jobs that a client or a deadline ended, though no row of theirs is committed."""
        queue = self._shard.queue
        async for news in queue.follow(hear_moved=False):
            ended = news.ended & self._specs.keys()
            if news.everything:
                self._is_adrift = True
                try:
                    ended |= await queue.ended_of(tuple(self._specs))
                except Unavailable:
                    continue  # the doorbell says so again when Redis is back
            if ended:
                self._inbox.put(Cancelled(tuple(ended)))

    async def _accuse(self, error: Exception) -> None:
        """Something broke the lane, and nobody knows what: any of its jobs may be why.

        What was reported before is written, so that a suspect goes on from there.
        """
        try:
            async with asyncio.timeout(self._shard.settings.lease_ttl_s):
                with contextlib.suppress(Exception):
                    await self._commits.flush()
                queue = self._shard.queue
                job_ids = tuple(await queue.claimed(self._lease))
                num = await queue.strike(self._lease, job_ids, f"{type(error).__name__}: {error}")
        except (TimeoutError, Unavailable, Fenced):
            log.warning("lane %s failed, and nobody could be told", self._lease.worker_id)
        else:
            log.error("lane %s failed with %d jobs; they are suspects", self._lease.worker_id, num)

    async def _hand_over(self) -> list[Exception]:
        """Write what was reported, give the jobs back, and let go of the lease.

        Returns what went wrong in the core, if anything did: then nothing was given back.
        """
        events = [*self._inbox.take(), WorkerLost()]
        try:
            effects = self._handle(events)
        except Exception as error:
            return [error]
        for effect in effects:
            if isinstance(effect, Commit | Requeue):
                self._commits.put(effect)
        try:
            async with asyncio.timeout(self._shard.settings.lease_ttl_s):
                await self._commits.flush()
                await self._shard.queue.release(self._lease)
        except Fenced:
            raise LeaseLost(f"the lease of {self._lease.worker_id} was taken over") from None
        except (TimeoutError, Unavailable):
            # The claims stay with the lease; whoever takes it when it expires requeues them.
            log.warning("lane %s: Redis is away, its lease must expire", self._lease.worker_id)
        except Exception as error:
            return [error]
        return []


async def _first_errors(tasks: Iterable[Coroutine[Any, Any, None]]) -> list[Exception]:
    """Run the tasks until one fails, which they all do in the end; return what was raised."""
    errors: list[Exception] = []
    try:
        async with asyncio.TaskGroup() as group:
            for task in tasks:
                group.create_task(task)
    except* Exception as group_error:
        errors = _leaves(group_error)
    return errors


def _leaves(errors: BaseExceptionGroup[Exception]) -> list[Exception]:
    found: list[Exception] = []
    for error in errors.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


class _Stopped(Exception):
    """We were asked to stop."""


def _is_for_others(effect: Effect) -> bool:
    return not isinstance(effect, Send)


def _is_failure(error: Exception) -> bool:
    """Whether something is wrong with the lane, the worker, or a job, and not just gone."""
    is_orderly = isinstance(error, _Stopped | OutOfOrder | WorkerGone | Unavailable)
    return not is_orderly or isinstance(error, WorkerRefuses)


async def _until(stop: asyncio.Event) -> None:
    await stop.wait()
    raise _Stopped
