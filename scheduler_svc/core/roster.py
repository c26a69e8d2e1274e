"""Where every sequence of a core is."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

from scheduler_svc.core.errors import ProtocolError
from scheduler_svc.core.sequence import Move, Sequence, State
from stepserve.protocol.step import ResidentSequence

# Its multiples, without their whole parts, fill the unit interval evenly.
GOLDEN_RATIO = (5**0.5 - 1) / 2


class _Residents(dict[int, Sequence]):
    """By sequence id. An unknown one is the worker's mistake: raises ProtocolError."""

    def __missing__(self, sequence_id: int) -> Sequence:
        raise ProtocolError(f"sequence {sequence_id} is not at the worker")


class Roster:
    """The sequences in groups; every move goes through here, so that group follows state.

    ``live`` are those whose output has not ended, by (job id, index). ``waiting`` are in the
    lane, first in order first. ``residents`` are those the worker may know, by sequence id:
    ``running`` ones, ``leaving`` ones that the next command releases, and ``departing`` ones
    that no later step will name, which return with the report of the last step that does.
    """

    def __init__(self) -> None:
        self.live: dict[tuple[str, int], Sequence] = {}
        self.waiting: list[Sequence] = []
        self.running: dict[int, Sequence] = {}
        self.residents = _Residents()
        self._leaving: dict[int, Sequence] = {}
        self._departing: dict[int, Sequence] = {}
        self._last_id = self._num_added = 0

    @property
    def num_departing(self) -> int:
        """Sequences that are on their way out of the worker."""
        return len(self._leaving) + len(self._departing)

    @property
    def departing(self) -> Iterator[Sequence]:
        """Sequences on their way out, whose blocks come back with reports that are due."""
        yield from self._leaving.values()
        yield from self._departing.values()

    def add(self, sequence: Sequence) -> None:
        """Let a new sequence wait."""
        self._know(sequence)
        self._wait(sequence)

    def skip_ids(self, last_id: int) -> None:
        """Ids up to ``last_id`` were used by another."""
        self._last_id = max(self._last_id, last_id)

    def resume(self, sequence: Sequence, held: ResidentSequence, last_step: int) -> None:
        """A new sequence runs, as it is ``held`` by the worker after ``last_step``."""
        self._know(sequence)
        self._settle_in(sequence, held, last_step)
        self.running[held.sequence_id] = sequence

    def take_back(self, sequence: Sequence, left: ResidentSequence, last_step: int) -> None:
        """A new sequence has left the worker; reports up to ``last_step`` may name it."""
        self._know(sequence)
        self._settle_in(sequence, left, last_step)
        sequence.move(Move.PREEMPT)
        self._departing[left.sequence_id] = sequence

    def dismiss(self, sequence: Sequence, held: ResidentSequence, last_step: int) -> None:
        """Nobody wants what the worker holds there: the next command releases it."""
        self._settle_in(sequence, held, last_step)
        sequence.move(Move.END)
        self._leaving[held.sequence_id] = sequence

    def admit(self) -> Sequence:
        """Take the first that waits, give it an id, never used before, and let it run."""
        sequence = self.waiting.pop(0)
        sequence.move(Move.ADMIT)
        self._last_id = sequence.sequence_id = self._last_id + 1
        self.residents[sequence.sequence_id] = self.running[sequence.sequence_id] = sequence
        return sequence

    def preempt(self, sequence: Sequence) -> None:
        """Take it off the worker; it waits again once its blocks are back."""
        sequence.move(Move.PREEMPT)
        self._leaving[sequence.sequence_id] = self.running.pop(sequence.sequence_id)

    def end(self, sequence: Sequence) -> None:
        """Its output has ended: no more tokens are wanted, its blocks are."""
        was = sequence.state
        sequence.move(Move.END)
        del self.live[sequence.key]
        if was is State.WAITING:
            del self.waiting[bisect_left(self.waiting, sequence.order, key=_order)]
        elif was is State.RUNNING:
            self._leaving[sequence.sequence_id] = self.running.pop(sequence.sequence_id)

    def finished(self, sequence_id: int) -> None:
        """The worker ended it by itself: there is nothing left to release."""
        if sequence := self._leaving.pop(sequence_id, None):
            self._departing[sequence_id] = sequence

    def release(self, step: int) -> tuple[int, ...]:
        """Return the ids that ``step`` releases: of all that are leaving."""
        release_ids = tuple(self._leaving)
        for sequence in self._leaving.values():
            sequence.last_step = step
        self._departing.update(self._leaving)
        self._leaving.clear()
        return release_ids

    def settle(self, reported: int) -> None:
        """Let those return whom no step after ``reported`` names. Raises ProtocolError."""
        for sequence in [s for s in self._departing.values() if s.last_step <= reported]:
            if sequence.block_ids:
                raise ProtocolError(f"{sequence.key} left and kept blocks")
            del self._departing[sequence.sequence_id], self.residents[sequence.sequence_id]
            sequence.move(Move.RETURN)
            if sequence.state is State.WAITING:
                sequence.rewind()
                self._wait(sequence)

    def forget(self) -> list[list[int]]:
        """Empty every group; return each table of blocks that was held."""
        tables = [sequence.block_ids for sequence in self.residents.values()]
        self.live.clear()
        self.waiting.clear()
        for group in (self.running, self.residents, self._leaving, self._departing):
            group.clear()
        return tables

    def check(self) -> None:
        """Assert that every sequence is in one group, the one its state names."""
        assert self.waiting == sorted(self.waiting, key=_order), "the wait is out of order"
        for sequence in self.waiting:
            assert sequence.state is State.WAITING, f"{sequence.key} waits in another state"
            assert not sequence.block_ids, f"{sequence.key} waits and holds blocks"
            assert not sequence.num_computed, f"{sequence.key} waits with computed tokens"
        for sequence in self.running.values():
            assert sequence.state is State.RUNNING, f"{sequence.key} runs in another state"
        for sequence in (*self._leaving.values(), *self._departing.values()):
            assert sequence.state in {State.PREEMPTED, State.ENDED}, f"{sequence.key} stays"
        ids = [*self.running, *self._leaving, *self._departing]
        assert len(ids) == len(set(ids)), "a sequence is in two groups"
        assert set(ids) == set(self.residents), "a sequence is in none"
        assert self.live == {s.key: s for s in self._unended()}, "live and the groups differ"

    def _know(self, sequence: Sequence) -> None:
        self._num_added += 1
        sequence.quantile = self._num_added * GOLDEN_RATIO % 1.0
        self.live[sequence.key] = sequence

    def _settle_in(self, sequence: Sequence, held: ResidentSequence, last_step: int) -> None:
        sequence.move(Move.ADMIT)
        sequence.resume(held, last_step)
        self._last_id = max(self._last_id, held.sequence_id)
        self.residents[held.sequence_id] = sequence

    def _wait(self, sequence: Sequence) -> None:
        insort(self.waiting, sequence, key=_order)

    def _unended(self) -> Iterator[Sequence]:
        yield from self.waiting
        yield from (s for s in self.residents.values() if s.state is not State.ENDED)


def _order(sequence: Sequence) -> tuple[float, float, str, int]:
    return sequence.order
