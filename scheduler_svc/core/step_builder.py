"""A step's command in the making."""

from __future__ import annotations

from dataclasses import dataclass, field

from scheduler_svc.core.flight import Planned
from scheduler_svc.core.sequence import Sequence
from stepserve.protocol.step import Admission


@dataclass(slots=True)
class StepBuilder:
    """Rows, admissions and blocks so far; ``budget`` is how many tokens may still be computed.

    ``num_newcomers`` may still come in. ``num_held`` sequences wait for a later step: for their
    sake a step is sent that has no row, since the steps are what they wait for.
    """

    step: int
    budget: int
    block_size: int
    num_newcomers: int = 0
    num_held: int = 0
    admissions: list[Admission] = field(default_factory=list)
    sequence_ids: list[int] = field(default_factory=list)
    num_tokens: list[int] = field(default_factory=list)
    num_new_blocks: list[int] = field(default_factory=list)
    block_ids: list[int] = field(default_factory=list)
    fills: list[tuple[Sequence, int]] = field(default_factory=list)

    def add_row(self, sequence: Sequence, num_tokens: int, num_new_blocks: int) -> None:
        """Compute ``num_tokens`` more; where that leaves none pending, one is chosen."""
        self.budget -= num_tokens
        sequence.last_step = self.step
        before = sequence.num_computed // self.block_size
        sequence.num_computed += num_tokens
        num_full = sequence.num_computed // self.block_size
        if num_full > before:
            self.fills.append((sequence, num_full))
        if sequence.num_computed == sequence.num_tokens:
            sequence.num_tokens += 1
        self.sequence_ids.append(sequence.sequence_id)
        self.num_tokens.append(num_tokens)
        self.num_new_blocks.append(num_new_blocks)

    def planned(self) -> Planned:
        """Return what is to be remembered of the step."""
        return Planned(sum(self.num_tokens), self.fills)
