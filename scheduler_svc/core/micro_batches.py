"""Whose turn it is in a step of a pipeline: each stage computes another micro-batch.

A micro-batch is who was named by the same step; nothing else says so. What a step names, the
one ``num_stages`` later may name again: so the steps that the stages are at have no sequence in
common. With one stage it is everybody's turn in each step.

Source: iteration-level scheduling over stages with several batches in flight, as in Yu et al.,
"Orca: A Distributed Serving System for Transformer-Based Generative Models", section 4.2.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from scheduler_svc.core.config import CoreConfig
from scheduler_svc.core.roster import Roster
from scheduler_svc.core.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Turn:
    """Who may be in one step: of the ``ready``, first ones first, ``num_rows`` at most.

    Beside them so many newcomers. ``num_held`` run too, and are to wait for a later step. There
    are ``num_micro_batches``, this one included, and ``num_pending`` tokens of prompts in all of
    them, the newcomers' too.
    """

    ready: Collection[Sequence]
    num_rows: int
    num_newcomers: int
    num_held: int
    num_micro_batches: int = 1
    num_pending: int = 0

    def prompt_tokens(self, fewest: int) -> int:
        """Return how many of the prompts' tokens the step is to compute, ``fewest`` at least.

        A stage waits for the one before it where that has more to compute: so every
        micro-batch has as much of the prompts, and so little that they are through when each has
        had as many turns as there are micro-batches.
        """
        return max(-(-self.num_pending // self.num_micro_batches**2), fewest)


class MicroBatches:
    """Keeps the micro-batches as even as they can be, while sequences come and go."""

    def __init__(self, config: CoreConfig, roster: Roster) -> None:
        self._num_stages = config.num_stages
        self._target = config.target_rows
        self._roster = roster

    def turn(self, step: int, num_newcomers: int) -> Turn:
        """Return who may be in ``step``, where so many could come in.

        Where there are more than an even share, those go first that wait longest: the others
        are in the next step, with another micro-batch.
        """
        ready: list[Sequence] = []
        num_stages, num_pending = self._num_stages, 0
        sizes = [0] * num_stages  # By how many steps ago; none of the step itself.
        for sequence in self._roster.running.values():
            num_tokens = sequence.num_tokens
            if num_tokens >= sequence.max_length:
                continue
            if num_tokens - sequence.num_computed > 1:
                num_pending += num_tokens - sequence.num_computed
            num_ago = step - sequence.last_step
            if num_ago >= num_stages:
                ready.append(sequence)
            else:
                sizes[num_ago] += 1
        others = self._others(sizes, len(ready), num_newcomers)
        if others is None:
            return Turn((), 0, 0, sum(sizes))
        num_rows = even_share(len(ready), others)
        if num_rows < len(ready):
            ready.sort(key=_last_step)
        num_more = even_share(len(ready) + num_newcomers, others) - num_rows
        num_pending += sum(s.num_tokens for s in self._roster.waiting[:num_newcomers])
        return Turn(ready, num_rows, num_more, sum(sizes), len(others) + 1, num_pending)

    def _others(self, sizes: list[int], num_ready: int, num_newcomers: int) -> list[int] | None:
        """The sizes of the micro-batches beside this step's; None where it should have none.

        As many as have members, and more once these are as large as they should get.
        """
        others = [size for size in sizes if size]
        num_all = sum(others) + num_ready + num_newcomers
        num_wanted = min(self._num_stages, -(-num_all // self._target))
        num_missing = num_wanted - len(others) - 1
        if num_missing < 0 and not num_ready:
            return None
        return others + [0] * num_missing


def even_share(count: int, others: Collection[int]) -> int:
    """Spread ``count`` over ``others``, as large as they are, and one more that is empty.

    Returns what the empty one gets where all become as even as they can: the lowest level
    that leaves nothing over.
    """
    level = total = count
    for num_filled, size in enumerate(sorted(others), start=2):
        total += size
        level = min(level, -(-total // num_filled))
    return level


def _last_step(sequence: Sequence) -> int:
    return sequence.last_step
