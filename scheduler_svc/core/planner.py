"""Plan one step: who leaves, who computes how much, who comes in."""

from __future__ import annotations

import math
from collections.abc import Iterable

from kvstore.pool import BlockPool
from scheduler_svc.core import victim
from scheduler_svc.core.budget import StepBudget
from scheduler_svc.core.config import CoreConfig
from scheduler_svc.core.counts import Counts
from scheduler_svc.core.growth import Growth, Outlook
from scheduler_svc.core.micro_batches import MicroBatches, Turn
from scheduler_svc.core.roster import Roster
from scheduler_svc.core.sequence import Sequence
from scheduler_svc.core.step_builder import StepBuilder


class Planner:
    """Plans against the roster as the steps in flight will leave it.

    A row brings its sequence the blocks for all its tokens, not for its chunk alone: a
    prompt that was let in can be finished, and a running sequence grows by one block a step
    at most.
    """

    def __init__(self, config: CoreConfig, pool: BlockPool, roster: Roster, growth: Growth) -> None:
        self._config = config
        self._pool = pool
        self._roster = roster
        self._growth = growth
        self._gate = _Gate(config, roster)
        self._micro_batches = MicroBatches(config, roster)
        self._outlook: Outlook | None = None  # Of this step; made when somebody may enter.
        self._blocked = _Blocked()
        self.budget = StepBudget(config)
        self.counts = Counts()

    def plan(self, step: int) -> StepBuilder:
        """Plan the rows, admissions and preemptions of ``step``."""
        self._outlook = None
        builder = StepBuilder(step, self.budget.tokens, self._config.block_size)
        # Before any row: who leaves has none.
        self._make_room()
        self._make_place()
        turn = self._micro_batches.turn(step, self._gate.num_open())
        builder.num_newcomers, builder.num_held = turn.num_newcomers, turn.num_held
        chunked = self._continue_decodes(builder, turn)
        # As much as is decoded, and a block, makes no step much longer than the others.
        fewest = max(len(builder.sequence_ids), builder.block_size)
        builder.budget = min(builder.budget, turn.prompt_tokens(fewest))
        self._fuse(builder, chunked)
        return builder

    def _make_room(self) -> None:
        """Preempt until the running sequences want no more blocks than there are.

        Blocks of those that leave count as there: they come back whatever happens, and
        until then a row that lacks one waits.
        """
        running = self._roster.running
        if len(running) <= self._pool.num_free:
            return
        while len(running) > 1 and self._num_wanted() > self._num_coming():
            self._preempt(victim.for_blocks(running.values()))

    def _num_wanted(self) -> int:
        """Blocks that the running sequences lack for what is pending."""
        size = self._config.block_size
        running = self._roster.running.values()
        return sum(s.num_blocks_wanted(size) - len(s.block_ids) for s in running)

    def _num_coming(self, leaving: Iterable[Sequence] = ()) -> int:
        """Blocks that are free, or held by nobody but sequences that leave, or would."""
        tables = [sequence.block_ids for sequence in (*self._roster.departing, *leaving)]
        return self._pool.num_free + self._pool.num_freed_by(tables)

    def _preempt(self, sequence: Sequence) -> None:
        self.counts.num_preemptions += 1
        self._roster.preempt(sequence)

    def _continue_decodes(self, builder: StepBuilder, turn: Turn) -> list[Sequence]:
        """Give each decoding sequence its row; return those with more than one pending."""
        chunked = []
        num_left = turn.num_rows
        step, size = builder.step, self._config.block_size
        for sequence in turn.ready:
            if not num_left:
                break
            num_tokens = sequence.num_tokens
            if num_tokens - sequence.num_computed > 1:
                num_left -= 1
                chunked.append(sequence)
                continue
            num_new_blocks = 0
            if num_tokens > len(sequence.block_ids) * size:
                if not self._pool.num_free:
                    continue
                self._grow(builder, sequence, 1)
                num_new_blocks = 1
            num_left -= 1
            # builder.add_row for one token, spelled out: most rows of most steps are this.
            sequence.last_step = step
            sequence.num_computed = num_tokens
            sequence.num_tokens = num_tokens + 1
            if not num_tokens % size:
                builder.fills.append((sequence, num_tokens // size))
            builder.sequence_ids.append(sequence.sequence_id)
            builder.num_new_blocks.append(num_new_blocks)
        builder.num_tokens += [1] * len(builder.sequence_ids)
        builder.budget -= len(builder.sequence_ids)
        return chunked

    def _fuse(self, builder: StepBuilder, chunked: list[Sequence]) -> None:
        """Split what the decodes left among prompts: half for the first, half for the others.

        Newcomers come before the others: so a long prompt is split, short ones pass beside
        any number of them, and the first one always goes on.
        """
        kept = min(chunked[0].num_pending, (builder.budget + 1) // 2) if chunked else 0
        builder.budget -= kept
        self._admit(builder)
        # The first one last, with what the others leave.
        for sequence in (*chunked[1:], *chunked[:1]):
            if sequence is chunked[0]:
                builder.budget += kept
            if builder.budget:
                builder.add_row(sequence, min(sequence.num_pending, builder.budget), 0)

    def _make_place(self) -> None:
        """Let somebody go for the first that waits, where that one is much more urgent.

        One in a step; what leaves counts as gone, since it is on its way.
        """
        waiting, running = self._roster.waiting, self._roster.running
        margin = self._config.preemption_margin
        if not waiting or margin == math.inf or self._config.batching == "static":
            return
        first = waiting[0]
        cached = self._cached_blocks(first)
        has_place = len(running) < self._config.num_places
        if has_place and self._fits(first, cached, self._num_coming()):
            return
        candidates = [s for s in running.values() if s.rank - first.rank > margin]
        if candidates and self._num_wanted_by(first, cached) <= self._num_coming(candidates):
            self._preempt(victim.cheapest(candidates))

    def _num_wanted_by(self, sequence: Sequence, cached: list[int]) -> int:
        """Free blocks that it takes to let it in behind the ``cached`` ones."""
        wanted = sequence.num_blocks_wanted(self._config.block_size) - len(cached)
        return wanted + self._pool.num_idle(cached)

    def _admit(self, builder: StepBuilder) -> None:
        """Let sequences in, in order, while there are places, tokens and blocks."""
        waiting = self._roster.waiting
        while builder.num_newcomers and builder.budget:
            sequence = waiting[0]
            if self._blocked.still(sequence, len(self._roster.running), self._pool.num_free):
                return
            cached = self._cached_blocks(sequence)
            if not self._fits(sequence, cached, self._pool.num_free):
                self._blocked.by(sequence, len(self._roster.running), self._pool.num_free)
                self._gate.shut()
                return
            self._enter(builder, self._roster.admit(), cached)

    def _enter(self, builder: StepBuilder, sequence: Sequence, cached: list[int]) -> None:
        """Let it begin behind the blocks that are computed already."""
        self._gate.pass_through()
        builder.num_newcomers -= 1
        wanted = sequence.num_blocks_wanted(self._config.block_size) - len(cached)
        sequence.num_shared = len(cached) - self._pool.num_idle(cached)
        self._pool.retain(cached)
        sequence.block_ids = cached
        sequence.num_indexed = len(cached)
        sequence.num_computed = len(cached) * self._config.block_size
        self.counts.num_cached_tokens += sequence.num_computed
        self.counts.num_recomputed_tokens += max(0, sequence.num_lost - sequence.num_computed)
        builder.admissions.append(sequence.admission())
        self._grow(builder, sequence, wanted)
        builder.add_row(sequence, min(sequence.num_pending, builder.budget), wanted)
        if self._outlook is not None:
            self._outlook.add(sequence)

    def _cached_blocks(self, sequence: Sequence) -> list[int]:
        """Blocks that hold its beginning; its last token is always computed."""
        if not self._config.prefix_caching or sequence.scores_prompt:
            return []
        size = self._config.block_size
        return self._pool.match(sequence.keys_of((sequence.num_tokens - 1) // size, size))

    def _fits(self, sequence: Sequence, cached: list[int], num_free: int) -> bool:
        """Whether there are blocks for it now, and by expectation later.

        One block to grow by is left to each that runs: else the one let in now would be the
        next victim, and its prompt computed for nothing. Alone it fits in any case.
        """
        running = self._roster.running
        if self._num_wanted_by(sequence, cached) + len(running) > num_free:
            return False
        if self._outlook is None:
            self._outlook = self._growth.outlook(running.values())
        num_shared = len(cached) - self._pool.num_idle(cached)
        return not running or self._outlook.holds(sequence, num_shared)

    def _grow(self, builder: StepBuilder, sequence: Sequence, count: int) -> None:
        block_ids = self._pool.allocate(count)
        sequence.block_ids += block_ids
        builder.block_ids += block_ids


class _Blocked:
    """Who did not fit, and when it is worth another look: when there is more, or fewer run."""

    def __init__(self) -> None:
        self._who: tuple[str, int] | None = None
        self._num_running = self._num_free = 0

    def by(self, sequence: Sequence, num_running: int, num_free: int) -> None:
        self._who, self._num_running, self._num_free = sequence.key, num_running, num_free

    def still(self, sequence: Sequence, num_running: int, num_free: int) -> bool:
        is_less = num_running >= self._num_running and num_free <= self._num_free
        return is_less and sequence.key == self._who


class _Gate:
    """Through which newcomers come: one by one, or batch by batch."""

    def __init__(self, config: CoreConfig, roster: Roster) -> None:
        self._config = config
        self._roster = roster
        self._num_left = 0  # Of a static batch: how many may still come.

    def num_open(self) -> int:
        """Return how many may come now: a static batch is who waits when the last one has left."""
        num_places, roster = self._config.num_places, self._roster
        if self._config.batching == "static":
            if not roster.running:
                self._num_left = min(len(roster.waiting), num_places)
            return min(self._num_left, len(roster.waiting))
        return min(max(0, num_places - len(roster.running)), len(roster.waiting))

    def pass_through(self) -> None:
        self._num_left -= 1

    def shut(self) -> None:
        """The next one does not fit: a static batch is complete without it."""
        self._num_left = 0
