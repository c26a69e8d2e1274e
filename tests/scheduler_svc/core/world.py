"""A core with a model worker and a model queue around it: a lane without IO.

Each method does one thing that a real lane's tasks could do next; in whatever order they are
called, nothing of what is asserted here, in the worker or in the queue may break.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace

from scheduler_svc.core.adoption import Adoption, decide_adoption
from scheduler_svc.core.config import CoreConfig
from scheduler_svc.core.events import (
    Cancelled,
    Claim,
    Claimed,
    Commit,
    Committed,
    Effect,
    Event,
    Reported,
    Requeue,
    Send,
    StopHit,
    Ticked,
    WorkerLost,
)
from scheduler_svc.core.probation import Probation
from scheduler_svc.core.scheduler import Core
from stepserve.protocol.job import ClaimedJob, JobSpec
from stepserve.protocol.step import StepCommand, StepReport
from tests.scheduler_svc.core.model_queue import CURSED, Curse, ModelQueue, is_stop_string
from tests.scheduler_svc.core.model_worker import ModelWorker

# Among all that a lane holds, among half of them, and so on, and twice alone.
MAX_FAILURES = 8
# A step takes a few turns: to claim, to execute, to write and to be told so.
MAX_TURNS_A_STEP = 10


class World:
    """One lane's life after another, on one queue."""

    def __init__(self, config: CoreConfig) -> None:
        self.queue = ModelQueue(config.max_context)
        self.inbox: deque[Event] = deque()
        self.commands: deque[StepCommand] = deque()
        self.redis: deque[Commit | Requeue] = deque()
        self.claiming: list[Claim] = []  # The wish that stands, if one does.
        self.history: list[Reported] = []
        self.num_failures = 0
        # What every worker holds, whatever the lane that drives it makes of it.
        self._worker_places = config.max_batch_size
        self._start(config)

    def _start(self, config: CoreConfig) -> None:
        self.config = config
        self.core = Core(config)
        self.worker = ModelWorker(replace(config, max_batch_size=self._worker_places))
        self.probation = Probation(config.max_steps_in_flight)
        self.is_canary = False
        self._job_of: dict[int, tuple[str, int]] = {}
        self._last_commit = config.first_step - 1
        self.inbox.extend(self.history)
        self.history.clear()
        self.drain()

    def submit(
        self, spec: JobSpec, num_outputs: dict[int, int], curse: Curse | None = None
    ) -> None:
        if curse is not None:
            self.queue.curses[spec.job_id] = curse
        self.queue.submit(spec, num_outputs)

    def answer_claim(self, max_jobs: int) -> None:
        """Answer the claim that is out with so many jobs at most, as the claimer does.

        Not while suspects are tried, nor where others wait to be tried after them: then the lane
        gives all back.
        """
        self.queue.absolve(self.probation.passed())
        if self.probation.is_on:
            return
        if self.is_canary and self.queue.has_suspects:
            self.lose_worker(answer_claim=False)
            return
        self.is_canary = False
        claim = self.claiming.pop()
        jobs: tuple[ClaimedJob, ...] = ()
        if max_jobs and claim.max_rank == math.inf:
            jobs = self.queue.claim_suspects(min(max_jobs, claim.max_jobs))
            self.is_canary = bool(jobs)
        jobs = jobs or self.queue.claim(min(max_jobs, claim.max_jobs), claim.max_rank)
        sound = [job for job in jobs if not self._is_cursed(job.spec.job_id, "vetting")]
        for job in jobs:
            if job not in sound:
                self.queue.fail(job.spec.job_id)
        self.probation.begin(sound)
        self.inbox.append(Claimed(tuple(sound)))

    def execute(self) -> None:
        """Let the worker do its next step."""
        reported = self._annotate(self.worker.execute(self.commands.popleft()))
        self.history.append(reported)
        self.inbox.append(reported)

    def repeat_report(self, choice: int) -> None:
        """Let a report that came before, or is about to, come again."""
        self.inbox.append(self.history[choice % len(self.history)])

    def write(self) -> None:
        """Do what is next to be done in Redis."""
        effect = self.redis.popleft()
        if isinstance(effect, Requeue):
            self.queue.requeue(effect.job_ids)
        else:
            for row in effect.rows:
                if self._is_cursed(row.job_id, "commit", row.offset):
                    self.queue.fail(row.job_id)
            ended = self.queue.commit(effect.rows)
            self.probation.written(effect.rows, ended)
            self.inbox.append(Committed(effect.step, ended))

    def cancel(self, job_id: str, is_told: bool) -> None:
        """End the job in Redis; untold, the core finds out by its next commit."""
        self.queue.cancel(job_id)
        if is_told:
            self.inbox.append(Cancelled((job_id,)))

    def tick(self, now_s: float) -> None:
        """Tell the core what time it is; the queue ends nobody by itself."""
        self.inbox.append(Ticked(now_s))

    def turn(self) -> None:
        """Do a bit of everything."""
        if self.claiming and (self.queue.num_queued or not self.claiming[0].stands):
            self.answer_claim(self.config.num_places)
        if self.commands:
            self.execute()
        self._write_all()
        self.drain()

    def drain(self, num_events: int | None = None) -> None:
        """Hand the core what has happened: the oldest ``num_events``, or everything."""
        count = len(self.inbox) if num_events is None else min(num_events, len(self.inbox))
        events = [self.inbox.popleft() for _ in range(count)]
        if any(map(self._breaks, events)):
            self._fail()
            return
        effects = self.core.handle(events)
        self.core.check()
        if any(map(self._is_unplannable, effects)):
            self._fail()
            return
        for event in events:
            if isinstance(event, Cancelled):
                self.probation.gone(event.job_ids)
        for effect in effects:
            self._perform(effect)

    def _is_cursed(self, job_id: str, stage: str, offset: int = 0) -> bool:
        curse = self.queue.curses.get(job_id)
        return curse is not None and (curse.stage, curse.offset) == (stage, offset)

    def _breaks(self, event: Event) -> bool:
        """Whether absorbing the event fails, and with it the lane."""
        if not isinstance(event, Reported) or event.report.incarnation != self.config.incarnation:
            return False
        report = event.report
        tokens = zip(report.token_sequence_ids, report.token_offsets, strict=True)
        return any(self._is_cursed(self._job_of[i][0], "absorbing", at) for i, at in tokens)

    def _is_unplannable(self, effect: Effect) -> bool:
        admissions = effect.command.admissions if isinstance(effect, Send) else ()
        return any(self._is_cursed(admission.job_id, "planning") for admission in admissions)

    def _fail(self) -> None:
        """The lane fails, and nobody is told why; the next one drives the worker anew."""
        self.num_failures += 1
        self._write_all()
        self.queue.strike(self.probation.job_ids)
        for pending in (self.inbox, self.commands, self.claiming, self.history):
            pending.clear()
        self._restart()

    def take_over(self, num_places: int, max_steps_in_flight: int) -> Adoption:
        """The lane is gone, with all that was on its way; another one takes the worker."""
        for pending in (self.inbox, self.commands, self.redis, self.claiming, self.history):
            pending.clear()
        reply, reports = self.worker.greet(self.config.epoch + 1)
        self.config = replace(
            self.config,
            epoch=self.config.epoch + 1,
            first_step=reply.last_step + 1,
            max_batch_size=num_places,
            max_steps_in_flight=max_steps_in_flight,
        )
        self.core = Core(self.config)
        self.probation = Probation(max_steps_in_flight)
        self.is_canary = True
        self._last_commit = reply.last_step - len(reports)
        adoption = decide_adoption(self.queue.inherit(), reply, reports, self.config)
        self.queue.requeue(adoption.given_back)
        self.probation.begin(adoption.event.jobs)
        self.inbox.append(adoption.event)
        self.inbox.extend(map(self._annotate, adoption.reports))
        return adoption

    def lose_worker(self, answer_claim: bool) -> None:
        """Kill the worker, before or after the claim that is out is answered; start another."""
        self.inbox.append(WorkerLost())
        self.drain()
        if answer_claim and self.claiming:
            self.answer_claim(self.config.num_places)
        self.inbox.extend(self.history)
        self.inbox.append(WorkerLost())
        self.drain()
        self._write_all()
        self.drain()
        self._check_empty()
        assert not self.redis, "a core without a worker wants to write"
        self.commands.clear()
        self.claiming.clear()
        self._restart()

    def _restart(self) -> None:
        incarnation = f"{int(self.config.incarnation, 16) + 1:032x}"
        self._start(replace(self.config, incarnation=incarnation, epoch=self.config.epoch + 1))

    def finish(self, max_steps: int) -> None:
        """Let everything happen in turn until every job has ended."""
        num_steps, num_turns, last_step = 0, 0, self.worker.last_step
        while self.queue.unended or self.inbox or self.redis or self.commands:
            can_move = self.inbox or self.redis or self.commands or self.queue.num_queued
            assert can_move, "stuck: jobs are left and nothing will happen"
            self.turn()
            num_turns += 1
            num_steps += max(0, self.worker.last_step - last_step)
            last_step = self.worker.last_step
            assert num_steps <= max_steps, "no end in sight"
            assert num_turns <= MAX_TURNS_A_STEP * (max_steps + 1), "turns without any steps"
        self.queue.check_all_ended()
        assert self.num_failures <= MAX_FAILURES * len(self.queue.curses) ** 2
        self._check_empty()
        assert self.worker.num_held_blocks == 0, "the worker still holds blocks"

    def _write_all(self) -> None:
        while self.redis:
            self.write()

    def _check_empty(self) -> None:
        assert not self.core.job_ids
        assert self.core.num_running == self.core.num_waiting == self.core.num_departing == 0
        assert self.core.num_free_blocks == self.config.num_blocks
        assert self.core.num_steps_in_flight == 0

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Send(command):
                for admission in command.admissions:
                    self._job_of[admission.sequence_id] = admission.job_id, admission.index
                self.commands.append(command)
            case Commit(step, rows):
                is_next = step == self._last_commit + 1
                is_again = step == self._last_commit and rows
                assert is_next or is_again, "a report's commit is missing, or out of order"
                self._last_commit = step
                self.redis.append(effect)
            case Claim(max_jobs):
                assert 0 < max_jobs <= 2 * self.config.num_places
                # What came and is not absorbed yet makes a wish void, as the claimer has it.
                if not any(isinstance(event, Claimed) for event in self.inbox):
                    assert effect not in self.claiming, "the same wish again"
                    self.claiming = [effect]
            case Requeue():
                self.redis.append(effect)

    def _annotate(self, report: StepReport) -> Reported:
        """Find stop strings, as the lane's shell does."""
        stops = {}
        tokens = zip(report.token_sequence_ids, report.token_offsets, report.token_ids, strict=True)
        for sequence_id, offset, token_id in tokens:
            job_id, _ = self._job_of[sequence_id]
            if self._is_cursed(job_id, "text", offset):
                stops[sequence_id] = StopHit(offset, -1, CURSED)
            elif is_stop_string(self.queue.spec(job_id), token_id):
                stops[sequence_id] = StopHit(offset, text_bytes=offset)
        return Reported(report, stops)
