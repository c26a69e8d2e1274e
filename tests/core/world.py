"""A core with a model worker and a model queue around it: a lane without IO.

Each method does one thing that a real lane's tasks could do next; in whatever order they are
called, nothing of what is asserted here, in the worker or in the queue may break.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from protos.job import JobSpec
from protos.step import StepCommand, StepReport
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
from scheduler_svc.core.scheduler import Core
from tests.core.model_queue import ModelQueue, is_stop_string
from tests.core.model_worker import ModelWorker


class World:
    """One lane's life after another, on one queue."""

    def __init__(self, config: CoreConfig) -> None:
        self.queue = ModelQueue(config.max_context)
        self.inbox: deque[Event] = deque()
        self.commands: deque[StepCommand] = deque()
        self.redis: deque[Commit | Requeue] = deque()
        self.claiming: list[Claim] = []  # The wish that stands, if one does.
        self.history: list[Reported] = []
        self._start(config)

    def _start(self, config: CoreConfig) -> None:
        self.config = config
        self.core = Core(config)
        self.worker = ModelWorker(config)
        self._job_of: dict[int, tuple[str, int]] = {}
        self._last_commit = config.first_step - 1
        self.inbox.extend(self.history)
        self.history.clear()
        self.drain()

    def submit(self, spec: JobSpec, num_outputs: dict[int, int]) -> None:
        self.queue.submit(spec, num_outputs)

    def answer_claim(self, max_jobs: int) -> None:
        """Answer the claim that is out with so many jobs at most."""
        claim = self.claiming.pop()
        jobs = self.queue.claim(min(max_jobs, claim.max_jobs), claim.max_rank)
        self.inbox.append(Claimed(jobs))

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
            self.inbox.append(Committed(effect.step, self.queue.commit(effect.rows)))

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
        effects = self.core.handle(events)
        self.core.check()
        for effect in effects:
            self._perform(effect)

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
        incarnation = f"{int(self.config.incarnation, 16) + 1:032x}"
        self._start(replace(self.config, incarnation=incarnation, epoch=self.config.epoch + 1))

    def finish(self, max_steps: int) -> None:
        """Let everything happen in turn until every job has ended."""
        first_step = self.worker.last_step
        while self.queue.unended or self.inbox or self.redis or self.commands:
            can_move = self.inbox or self.redis or self.commands or self.queue.num_queued
            assert can_move, "stuck: jobs are left and nothing will happen"
            self.turn()
            assert self.worker.last_step - first_step <= max_steps, "no end in sight"
        self.queue.check_all_ended()
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
            if is_stop_string(self.queue.spec(job_id), token_id):
                stops[sequence_id] = StopHit(offset, text_bytes=offset)
        return Reported(report, stops)
