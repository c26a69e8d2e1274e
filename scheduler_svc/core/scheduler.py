"""The whole scheduling decision of a lane: events in, effects out."""

from __future__ import annotations

from collections import Counter, abc
from collections.abc import Callable, Iterable, Mapping

from kvstore.blocks import num_blocks_for
from kvstore.pool import BlockPool
from kvstore.prefix import keys_from, salt_of
from scheduler_svc.core.claims import Claims
from scheduler_svc.core.config import CoreConfig
from scheduler_svc.core.counts import Counts
from scheduler_svc.core.events import (
    Adopted,
    Cancelled,
    Claimed,
    Commit,
    Committed,
    Effect,
    Event,
    Reported,
    Requeue,
    Send,
    Ticked,
    WorkerLost,
)
from scheduler_svc.core.flight import Flight, Planned
from scheduler_svc.core.growth import Growth
from scheduler_svc.core.inheritance import inherit
from scheduler_svc.core.intake import sequences_of
from scheduler_svc.core.lengths import OutputLengths
from scheduler_svc.core.outcome import Outcome, end_row, finish_of
from scheduler_svc.core.planner import Planner
from scheduler_svc.core.punctuality import Punctuality
from scheduler_svc.core.roster import Roster
from scheduler_svc.core.sequence import Sequence, State
from stepserve.protocol.job import CommitRow
from stepserve.protocol.step import FinishReason, StepCommand, StepReport


class Core:
    """Drives one incarnation of a worker under one epoch, and ends with either.

    A pure function of its state and the events: no IO, no clock, no chance. After
    ``WorkerLost`` it is empty and stays so; jobs that were claimed for it go back.
    """

    def __init__(self, config: CoreConfig) -> None:
        self._config = config
        self._pool = BlockPool(config.num_blocks)
        self._roster = Roster()
        self._flight = Flight(config)
        lengths = OutputLengths()
        growth = Growth(config, lengths)
        self._outcome = Outcome(self._roster, lengths)
        self._planner = Planner(config, self._pool, self._roster, growth)
        self._punctuality = Punctuality(self._planner.budget, growth)
        self._claims = Claims(config, self._roster)
        self._is_lost = False
        self._num_inherited = 0
        self._absorb: Mapping[type[Event], Callable[..., Iterable[Effect]]] = {
            Adopted: self._adopted,
            Claimed: self._claimed,
            Reported: self._reported,
            Committed: self._committed,
            Cancelled: self._cancelled,
            Ticked: self._ticked,
            WorkerLost: self._worker_lost,
        }

    def handle(self, events: Iterable[Event]) -> list[Effect]:
        """Take every event, then plan while a step may be sent.

        Raises ProtocolError where an event contradicts the step protocol.
        """
        effects: list[Effect] = []
        for event in events:
            effects += self._absorb[type(event)](event)
        while self._flight.has_room and (command := self._plan()):
            effects.append(Send(command))
        if not self._is_lost and (claim := self._claims.renewed()):
            effects.append(claim)
        return effects

    @property
    def job_ids(self) -> frozenset[str]:
        """The jobs that would be requeued if the worker were lost now."""
        return frozenset(job_id for job_id, _ in self._roster.live)

    def jobs_of(self, commands: Iterable[StepCommand]) -> frozenset[str]:
        """Return the jobs that have rows in these steps."""
        ids = frozenset(i for command in commands for i in command.row_sequence_ids)
        residents = self._roster.residents
        return frozenset(residents[i].spec.job_id for i in ids if i in residents)

    @property
    def live(self) -> Mapping[tuple[str, int], Sequence]:
        """The sequences whose outputs have not ended, by (job id, index); a view, to be read."""
        return self._roster.live

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

    @property
    def counts(self) -> Counts:
        """What was done so far."""
        return self._planner.counts

    @property
    def step_us(self) -> float:
        """How long a step of one token takes, in microseconds; 0 before the first one."""
        return self._planner.budget.step_time.predict_us(1)

    def num_cached_tokens(self, tenant: str, prompt_token_ids: abc.Sequence[int]) -> int:
        """Return how many of a prompt's tokens need not be computed now."""
        if not self._config.prefix_caching:
            return 0
        size = self._config.block_size
        num_blocks = (len(prompt_token_ids) - 1) // size
        # One by one: what follows the first that is unknown need not be hashed.
        keys = keys_from(salt_of(tenant), prompt_token_ids, size, range(num_blocks))
        return len(self._pool.match(keys)) * size

    def _plan(self) -> StepCommand | None:
        """Plan the next step; None where there is nothing to do."""
        builder = self._planner.plan(self._flight.planned + 1)
        release_ids = self._roster.release(builder.step)
        if not builder.sequence_ids and not release_ids and not builder.num_held:
            return None
        assert builder.budget >= 0, "over budget"
        self._flight.plan(builder.planned())
        return StepCommand(
            epoch=self._config.epoch,
            incarnation=self._config.incarnation,
            step=builder.step,
            committed_step=self._flight.committed,
            release_ids=release_ids,
            admissions=builder.admissions,
            row_sequence_ids=builder.sequence_ids,
            row_num_tokens=builder.num_tokens,
            row_num_new_blocks=builder.num_new_blocks,
            new_block_ids=builder.block_ids,
        )

    def _adopted(self, event: Adopted) -> list[Effect]:
        """Go on with what another lane began; the blocks can be found once all is reported."""
        new, full = inherit(event, self._config, self._pool, self._roster)
        for sequence in new:
            self._punctuality.watch(sequence)
        running, size = self._roster.running.values(), self._config.block_size
        last = Planned(0, [(s, s.num_computed // size) for s in running])
        if event.num_reports:
            self._flight.adopt(event.num_reports, last)
        else:
            self._index(last)
        self._num_inherited = len(event.jobs)
        self.counts.num_adopted_sequences += len(running)
        self.counts.num_adopted_tokens += sum(s.num_computed for s in running)
        rows = [end_row(each, finish_of(each, FinishReason.LENGTH)) for each in full]
        return [Commit(self._flight.reported, tuple(rows))] if rows else []

    def _claimed(self, event: Claimed) -> list[Effect]:
        """Let the jobs wait; outputs that have no room for another token end here and now."""
        if self._is_lost:
            return _requeue(job.spec.job_id for job in event.jobs)
        self._claims.answered(len(event.jobs))
        rows = []
        for job in event.jobs:
            for sequence in sequences_of(job, self._config.max_context):
                if sequence.is_full:
                    rows.append(end_row(sequence, finish_of(sequence, FinishReason.LENGTH)))
                # A queue that lost its memory may give a job that is here already.
                elif sequence.key not in self._roster.live:
                    self._roster.add(sequence)
                    self._punctuality.watch(sequence)
        return [Commit(self._flight.reported, tuple(rows))] if rows else []

    def _reported(self, event: Reported) -> list[Effect]:
        """Take tokens, ends and blocks. What was reported before, or to another, is ignored."""
        report = event.report
        if report.incarnation != self._config.incarnation:
            return []
        planned = self._flight.report(report.step)
        if planned is None:
            return []
        self._planner.budget.step_time.observe(planned.num_tokens, report.duration_us)
        self._planner.counts.num_computed_tokens += planned.num_tokens
        self._index(planned)
        self._forget_broken(report)
        rows = self._outcome.take(report, event.stops)
        for sequence_id, block_ids in report.freed:
            self._roster.residents[sequence_id].give_back(block_ids)
            self._pool.release(block_ids)
        self._roster.settle(report.step)
        return [Commit(report.step, tuple(rows))]

    def _index(self, planned: Planned) -> None:
        """Let the blocks that the step filled be found by others.

        Not where the sequence had ended: the worker computed its row no further.
        """
        if not self._config.prefix_caching:
            return
        for sequence, num_full in planned.fills:
            if sequence.state is State.ENDED:
                continue
            keys = sequence.keys_of(num_full, self._config.block_size)
            for position in range(sequence.num_indexed, num_full):
                self._pool.index(sequence.block_ids[position], keys[position])
            sequence.num_indexed = num_full

    def _forget_broken(self, report: StepReport) -> None:
        """Let no block of a sequence that broke be found any more.

        Numbers that are not finite must not spread.
        """
        for sequence_id, reason in report.finished:
            if reason is FinishReason.ERROR:
                self._pool.forget(self._roster.residents[sequence_id].block_ids)

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

    def _ticked(self, event: Ticked) -> list[Effect]:
        """End who is late, and who would be."""
        if self._is_lost:
            return []
        rows: list[CommitRow] = []
        for sequence, finish in self._punctuality.late(event.now_s):
            rows.append(end_row(sequence, finish))
            self._roster.end(sequence)
        return [Commit(self._flight.reported, tuple(rows))] if rows else []

    def _worker_lost(self, _: WorkerLost) -> list[Effect]:
        """Give every job back; whatever was reported has gone to be committed already."""
        effects = _requeue(job_id for job_id, _ in self._roster.live)
        self._flight.abandon()
        for block_ids in self._roster.forget():
            self._pool.release(block_ids)
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
        most = max(2 * self._config.num_places, self._num_inherited)
        assert len(self.job_ids) <= most, "more jobs than can wait"
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
        num_after = max(0, sequence.last_step - flight.reported)
        assert num_after <= flight.num_in_flight, "named by a step that was never planned"
        num_naming = -(-num_after // self._config.num_stages)
        assert num_awaited <= num_naming, "a token that no step chooses"


def _requeue(job_ids: Iterable[str]) -> list[Effect]:
    """Give jobs back, each once, however many of its outputs were here."""
    unique = tuple(dict.fromkeys(job_ids))
    return [Requeue(unique)] if unique else []
