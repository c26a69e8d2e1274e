"""Plan one step: who leaves, who computes how much, who comes in."""

from __future__ import annotations

from dataclasses import dataclass, field

from kvstore.pool import BlockPool
from protos.step import Admission, StepCommand
from scheduler_svc.core.config import CoreConfig
from scheduler_svc.core.policy import Policy
from scheduler_svc.core.roster import Roster
from scheduler_svc.core.sequence import Sequence


@dataclass(slots=True)
class _Draft:
    """A command in the making; ``budget`` is how many tokens it may still compute."""

    step: int
    budget: int
    admissions: list[Admission] = field(default_factory=list)
    sequence_ids: list[int] = field(default_factory=list)
    num_tokens: list[int] = field(default_factory=list)
    num_new_blocks: list[int] = field(default_factory=list)
    block_ids: list[int] = field(default_factory=list)

    def add_row(self, sequence: Sequence, num_tokens: int, num_new_blocks: int) -> None:
        """Compute ``num_tokens`` more; where that leaves none pending, one is chosen."""
        self.budget -= num_tokens
        sequence.last_step = self.step
        sequence.num_computed += num_tokens
        if sequence.num_computed == sequence.num_tokens:
            sequence.num_tokens += 1
        self.sequence_ids.append(sequence.sequence_id)
        self.num_tokens.append(num_tokens)
        self.num_new_blocks.append(num_new_blocks)


class Planner:
    """Plans against the roster as the steps in flight will leave it.

    A row brings its sequence the blocks for all its tokens, not for its chunk alone: a
    prompt that was let in can be finished, and a running sequence grows by one block a step
    at most.
    """

    def __init__(self, config: CoreConfig, policy: Policy, pool: BlockPool, roster: Roster) -> None:
        self._config = config
        self._pool = pool
        self._roster = roster
        self._policy = policy

    def plan(self, step: int, committed_step: int) -> StepCommand | None:
        """Plan ``step``; None where there is nothing to do."""
        draft = _Draft(step, self._config.max_step_tokens)
        self._make_room()
        chunked = self._continue_decodes(draft)
        self._continue_prefills(draft, chunked)
        self._admit(draft)
        release_ids = self._roster.release(step)
        if not draft.sequence_ids and not release_ids:
            return None
        assert draft.budget >= 0, "over budget"
        return StepCommand(
            epoch=self._config.epoch,
            incarnation=self._config.incarnation,
            step=step,
            committed_step=committed_step,
            release_ids=release_ids,
            admissions=draft.admissions,
            row_sequence_ids=draft.sequence_ids,
            row_num_tokens=draft.num_tokens,
            row_num_new_blocks=draft.num_new_blocks,
            new_block_ids=draft.block_ids,
        )

    def _make_room(self) -> None:
        """Preempt until what the running sequences want is no more than there is.

        Blocks of those that leave count as there: they come back whatever happens, and
        until then a row that lacks one waits.
        """
        running = self._roster.running
        if len(running) <= self._pool.num_free:
            return
        block_size = self._config.block_size
        wanted = sum(s.num_blocks_wanted(block_size) for s in running.values())
        while wanted > self._pool.num_blocks:
            victim = self._policy.victim(running.values())
            wanted -= victim.num_blocks_wanted(block_size)
            self._roster.preempt(victim)

    def _continue_decodes(self, draft: _Draft) -> list[Sequence]:
        """Give each decoding sequence its row; return those with more than one pending."""
        chunked = []
        block_size = self._config.block_size
        for sequence in self._roster.running.values():
            num_tokens = sequence.num_tokens
            if num_tokens - sequence.num_computed > 1:
                chunked.append(sequence)
            elif num_tokens >= sequence.max_length:
                continue
            elif num_tokens <= len(sequence.block_ids) * block_size:
                draft.add_row(sequence, 1, 0)
            elif self._pool.num_free:
                self._grow(draft, sequence, 1)
                draft.add_row(sequence, 1, 1)
        return chunked

    def _continue_prefills(self, draft: _Draft, chunked: list[Sequence]) -> None:
        for sequence in chunked:
            if draft.budget == 0:
                return
            draft.add_row(sequence, min(sequence.num_pending, draft.budget), 0)

    def _admit(self, draft: _Draft) -> None:
        """Let sequences in, in the policy's order, while there are places, tokens and blocks."""
        waiting, running = self._roster.waiting, self._roster.running
        while waiting and draft.budget and len(running) < self._config.num_places:
            sequence = self._policy.next(waiting.values())
            wanted = sequence.num_blocks_wanted(self._config.block_size)
            # One block to grow by is left to each that runs: else the one let in now
            # would be the next victim, and its prompt computed for nothing.
            if wanted + len(running) > self._pool.num_free:
                return
            self._roster.admit(sequence)
            draft.admissions.append(sequence.admission())
            self._grow(draft, sequence, wanted)
            draft.add_row(sequence, min(sequence.num_pending, draft.budget), wanted)

    def _grow(self, draft: _Draft, sequence: Sequence, count: int) -> None:
        block_ids = self._pool.allocate(count)
        sequence.block_ids += block_ids
        draft.block_ids += block_ids
