"""The whole scheduling decision of a lane: events in, effects out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Sequence as Series

from kvstore.blocks import num_blocks_for
from kvstore.pool import BlockPool
from protos.step import FinishReason, StepCommand
from scheduler_svc.core.config import CoreConfig
from scheduler_svc.core.errors import ProtocolError
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
    WorkerLost,
)
from scheduler_svc.core.flight import Flight
from scheduler_svc.core.intake import sequences_of
from scheduler_svc.core.outcome import end_row, take_outcome
from scheduler_svc.core.planner import Planner
from scheduler_svc.core.policy import FirstComeFirstServed, Policy
from scheduler_svc.core.roster import Roster
from scheduler_svc.core.sequence import Sequence


class Core:
    """Drives one incarnation of a worker under one epoch, and ends with either.

    A pure function of its state and the events: no IO, no clock, no chance. After
    ``WorkerLost`` it is empty and stays so; jobs that were claimed for it go back.
    """

    def __init__(self, config: CoreConfig, policy: Policy | None = None) -> None:
        self._config = config
        self._pool = BlockPool(config.num_blocks)
        self._roster = Roster()
        self._flight = Flight(config)
        self._planner = Planner(config, policy or FirstComeFirstServed(), self._pool, self._roster)
        self._num_claiming = 0
        self._is_lost = False
        self._absorb: Mapping[type[Event], Callable[..., Iterable[Effect]]] = {
            Claimed: self._claimed,
            Reported: self._reported,
            Committed: self._committed,
            Cancelled: self._cancelled,
            WorkerLost: self._worker_lost,
        }

    def handle(self, events: Series[Event]) -> list[Effect]:
        """Take every event, then plan while a step may be sent.

        Raises ProtocolError where an event contradicts the step protocol.
        """
        effects: list[Effect] = []
        for event in events:
            effects += self._absorb[type(event)](event)
        while self._flight.has_room and (command := self._plan()):
            effects.append(Send(command))
        return effects + self._claim()

    @property
    def job_ids(self) -> frozenset[str]:
        """The jobs that would be requeued if the worker were lost now."""
        return frozenset(job_id for job_id, _ in self._roster.live)

    @property
    def num_waiting(self) -> int:
        return len(self._roster.waiting)

    @property
    def num_running(self) -> int:
        return len(self._roster.running)

    @property
    def num_departing(self) -> int:
        """Sequences on their way out of the worker, whose blocks are not back yet."""
        return self._roster.num_departing

    @property
    def num_free_blocks(self) -> int:
        return self._pool.num_free

    @property
    def num_steps_in_flight(self) -> int:
        return self._flight.num_in_flight

    def _plan(self) -> StepCommand | None:
        command = self._planner.plan(self._flight.planned + 1, self._flight.committed)
        if command is not None:
            self._flight.planned = command.step
        return command

    def _claim(self) -> list[Effect]:
        """Ask for as many jobs as there are free places, once until it is answered."""
        num_free = self._config.num_places - len(self._roster.live)
        if num_free <= 0 or self._num_claiming or self._is_lost:
            return []
        self._num_claiming = num_free
        return [Claim(num_free)]

    def _claimed(self, event: Claimed) -> list[Effect]:
        """Let the jobs wait; outputs that have no room for another token end here and now."""
        if self._is_lost:
            return _requeue(job.spec.job_id for job in event.jobs)
        if len(event.jobs) > self._num_claiming:
            raise ProtocolError(f"{len(event.jobs)} jobs came, {self._num_claiming} were claimed")
        self._num_claiming = 0
        rows = []
        for job in event.jobs:
            for sequence in sequences_of(job, self._config.max_context):
                if sequence.is_full:
                    rows.append(end_row(sequence, FinishReason.LENGTH))
                # A queue that lost its memory may give a job that is here already.
                elif sequence.key not in self._roster.live:
                    self._roster.add(sequence)
        return [Commit(self._flight.reported, tuple(rows))] if rows else []

    def _reported(self, event: Reported) -> list[Effect]:
        """Take tokens, ends and blocks. What was reported before, or to another, is ignored."""
        report = event.report
        if report.incarnation != self._config.incarnation or not self._flight.report(report.step):
            return []
        rows = take_outcome(self._roster, report, event.stops)
        for sequence_id, block_ids in report.freed:
            self._roster.residents[sequence_id].give_back(block_ids)
            self._pool.release(block_ids)
        self._roster.settle(report.step)
        return [Commit(report.step, tuple(rows))]

    def _committed(self, event: Committed) -> list[Effect]:
        """Nobody wants more of an output that had ended in Redis before its rows came."""
        self._flight.commit(event.step)
        for key in event.ended:
            if sequence := self._roster.live.get(key):
                self._roster.end(sequence)
        return []

    def _cancelled(self, event: Cancelled) -> list[Effect]:
        """Drop the jobs. One that is still to be claimed is found out by its first commit."""
        for sequence in list(self._roster.live.values()):
            if sequence.spec.job_id in event.job_ids:
                self._roster.end(sequence)
        return []

    def _worker_lost(self, _: WorkerLost) -> list[Effect]:
        """Give every job back; whatever was reported has gone to be committed already."""
        effects = _requeue(job_id for job_id, _ in self._roster.live)
        self._flight.abandon()
        self._pool.release(self._roster.forget())
        self._is_lost = True
        return effects

    def check(self) -> None:
        """Assert every invariant; for tests, after each event."""
        self._flight.check()
        self._roster.check()
        self._pool.check()
        held = Counter(
            b for sequence in self._roster.residents.values() for b in sequence.block_ids
        )
        assert held == self._pool.references, "a block's holders are not those it is held by"
        assert len(self.job_ids) <= self._config.num_places, "more jobs than places"
        assert self.num_running <= self._config.num_places, "more running than places"
        for sequence in self._roster.running.values():
            self._check_running(sequence)

    def _check_running(self, sequence: Sequence) -> None:
        block_size, flight = self._config.block_size, self._flight
        num_blocks = num_blocks_for(sequence.num_computed, block_size)
        assert num_blocks <= len(sequence.block_ids), "computed tokens without a block"
        assert len(sequence.block_ids) <= sequence.num_blocks_wanted(block_size), "spare blocks"
        assert sequence.num_pending > 0, "nothing is pending"
        assert len(sequence.token_ids) <= sequence.num_tokens <= sequence.max_length, "too long"
        num_awaited = sequence.num_tokens - len(sequence.token_ids)
        num_naming = max(0, sequence.last_step - flight.reported)
        assert num_awaited <= num_naming <= flight.num_in_flight, "a token that no step chooses"


def _requeue(job_ids: Iterable[str]) -> list[Effect]:
    """Give jobs back, each once, however many of its outputs were here."""
    unique = tuple(dict.fromkeys(job_ids))
    return [Requeue(unique)] if unique else []
