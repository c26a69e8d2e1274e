"""The sequences that live in a worker, as its host side knows them, and what commands do to them.

Progress is counted when a step is planned, not when its result is known: a row that leaves nothing
pending is taken to give a token, so the next step can be planned while this one is computed. What
the device decided follows with ``absorb``; a sequence that ended meanwhile is named by the steps
planned since, and those rows come to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from stepserve.protocol.errors import StepRefused
from stepserve.protocol.prompt_logprobs import PromptLogprobs
from stepserve.protocol.sampling import Sampling
from stepserve.protocol.step import Admission, ResidentSequence, StepCommand
from worker_svc.core.limits import Limits, check_admission, check_block_ids
from worker_svc.core.needs import Needs


@dataclass(slots=True, eq=False)
class Resident:
    """One sequence's progress. There are no phases: what is not computed is pending.

    ``row_id`` is its row in the tables on the device, which hold its tokens and sampling
    values; ``max_tokens`` bounds prompt and output together. ``num_tokens`` and
    ``num_computed`` are those after the last planned step. ``scores`` are the log-probabilities
    of its prompt, as far as they are known; None where none are to be told.
    """

    admission: Admission
    max_tokens: int
    stop_token_ids: frozenset[int]
    needs: Needs
    num_tokens: int
    num_computed: int
    block_ids: list[int]
    row_id: int = -1
    is_live: bool = True
    has_ended: bool = False
    scores: list[PromptLogprobs] | None = None

    @classmethod
    def of(cls, admission: Admission, max_context: int) -> Resident:
        """A sequence as its admission describes it, without a row yet."""
        sampling = admission.sampling
        has_output = len(admission.token_ids) > admission.num_prompt_tokens
        return cls(
            admission=admission,
            max_tokens=min(admission.num_prompt_tokens + sampling.max_tokens, max_context),
            stop_token_ids=frozenset(sampling.stop_token_ids),
            needs=Needs.of(sampling),
            num_tokens=len(admission.token_ids),
            num_computed=admission.num_computed,
            block_ids=list(admission.block_ids),
            scores=None if has_output or sampling.prompt_logprobs < 0 else [],
        )

    @property
    def sequence_id(self) -> int:
        return self.admission.sequence_id

    @property
    def sampling(self) -> Sampling:
        return self.admission.sampling

    @property
    def num_pending(self) -> int:
        return self.num_tokens - self.num_computed

    @property
    def num_prompt_tokens(self) -> int:
        return self.admission.num_prompt_tokens


class Row(NamedTuple):
    """What one sequence computes in a step, as it stood when the step was planned.

    A tuple, because there is one for each row of each step: it is made twice as fast.

    Attributes:
        resident: whose row it is.
        start: tokens computed before.
        num_tokens: tokens to compute.
        position: where the next token goes, the number of tokens so far.
        is_sampled: whether nothing is pending then, so that a token is chosen.
        num_blocks: blocks of the sequence, the new ones among them.
        new_block_ids: what its block table grows by.
        num_scored: of how many tokens of the prompt, from the one behind ``start`` on, the
            log-probabilities are wanted.
    """

    resident: Resident
    start: int
    num_tokens: int
    position: int
    is_sampled: bool
    num_blocks: int
    new_block_ids: Sequence[int]
    num_scored: int = 0

    @property
    def scored_token_ids(self) -> Sequence[int]:
        """The tokens whose log-probabilities are wanted."""
        begin = self.start + 1
        return self.resident.admission.token_ids[begin : begin + self.num_scored]


@dataclass(slots=True)
class StepPlan:
    """What a command does. ``strays`` are blocks named for sequences that have ended.

    ``scored`` are those of the ``rows`` in which a prompt's log-probabilities are computed.

    ``num_dead`` places were left empty by sequences that left, since the worker last held none.
    """

    command: StepCommand
    released: list[Resident] = field(default_factory=list)
    admitted: list[Resident] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    scored: list[Row] = field(default_factory=list)
    strays: list[tuple[int, Sequence[int]]] = field(default_factory=list)
    num_dead: int = 0

    @property
    def sampled(self) -> list[Row]:
        """The rows for which a token is chosen, in the order of ``rows``."""
        return [row for row in self.rows if row.is_sampled]


class _Departed(NamedTuple):
    """A sequence that ended or was released in ``step``."""

    step: int
    told: ResidentSequence
    has_ended: bool


class Residents:
    """Every live sequence by its id, and the rows of the tables that are free for more.

    Those that left are remembered until the step that they left in is committed: until then
    the lane may not know of an end, and may still name the sequence; and another lane may have
    to be told whose the tokens in the kept reports are.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._live: dict[int, Resident] = {}
        self._departed: dict[int, _Departed] = {}
        self._free_row_ids = list(range(limits.max_batch_size - 1, -1, -1))
        self._most_live = 0
        self.last_id = 0  # The highest that was ever admitted.

    def __len__(self) -> int:
        return len(self._live)

    def describe(self) -> tuple[ResidentSequence, ...]:
        """Every live sequence, as a HelloReply tells it; every planned step is settled."""
        return tuple(_told(resident, resident.block_ids) for resident in self._live.values())

    def departed(self) -> tuple[ResidentSequence, ...]:
        """Those that left in a step which is not known to be committed; they hold nothing."""
        return tuple(each.told for each in self._departed.values())

    def plan(self, command: StepCommand) -> StepPlan:
        """Check ``command``, apply it, and return what is to be computed.

        Raises:
            StepRefused: it cannot be done; nothing was changed.
        """
        plan = StepPlan(command)
        known = dict(self._live)
        for sequence_id in command.release_ids:
            if (resident := known.pop(sequence_id, None)) is not None:
                plan.released.append(resident)
        for admission in command.admissions:
            if admission.sequence_id in self._live or admission.sequence_id in known:
                raise StepRefused(f"sequence {admission.sequence_id} is admitted twice")
            check_admission(admission, self._limits)
            resident = Resident.of(admission, self._limits.max_context)
            known[admission.sequence_id] = resident
            plan.admitted.append(resident)
        if len(known) > self._limits.max_batch_size:
            raise StepRefused(f"{len(known)} sequences, {self._limits.max_batch_size} at most")
        self._plan_rows(command, known, plan)
        self._apply(plan)
        return plan

    def _plan_rows(self, command: StepCommand, known: dict[int, Resident], plan: StepPlan) -> None:
        if len(set(command.row_sequence_ids)) != len(command.row_sequence_ids):
            raise StepRefused("a sequence has two rows in one step")
        if sum(command.row_num_tokens) > self._limits.max_step_tokens:
            raise StepRefused(
                f"{sum(command.row_num_tokens)} tokens, {self._limits.max_step_tokens} at most"
            )
        check_block_ids(command.new_block_ids, self._limits)
        start = 0
        for sequence_id, num_tokens, num_new in zip(
            command.row_sequence_ids,
            command.row_num_tokens,
            command.row_num_new_blocks,
            strict=True,
        ):
            new_block_ids = command.new_block_ids[start : start + num_new]
            start += num_new
            resident = known.get(sequence_id)
            if resident is not None and resident.num_tokens < resident.max_tokens:
                row = _row(resident, num_tokens, new_block_ids, self._limits)
                plan.rows.append(row)
                if row.num_scored:
                    plan.scored.append(row)
            elif resident is None and not self._has_ended(sequence_id):
                raise StepRefused(f"sequence {sequence_id} is unknown")
            elif num_new:  # it has ended, or surely does in a step that is being computed
                plan.strays.append((sequence_id, new_block_ids))

    def _has_ended(self, sequence_id: int) -> bool:
        departed = self._departed.get(sequence_id)
        return departed is not None and departed.has_ended

    def _apply(self, plan: StepPlan) -> None:
        """Let go of who leaves, give rows to who comes, and count what the rows will compute."""
        committed_step = plan.command.committed_step
        for sequence_id in [i for i, d in self._departed.items() if d.step <= committed_step]:
            del self._departed[sequence_id]
        for resident in plan.released:
            self._remove(resident)
            left = _Departed(plan.command.step, _told(resident), has_ended=False)
            self._departed[resident.sequence_id] = left
        for resident in plan.admitted:
            resident.row_id = self._free_row_ids.pop()
            self._live[resident.sequence_id] = resident
            self.last_id = max(self.last_id, resident.sequence_id)
        self._most_live = max(self._most_live, len(self._live))
        plan.num_dead = self._most_live - len(self._live)
        for resident, _, num_tokens, _, is_sampled, _, new_block_ids, _ in plan.rows:
            if new_block_ids:
                resident.block_ids += new_block_ids
            resident.num_computed += num_tokens
            resident.num_tokens += is_sampled

    def end(self, row: Row, step: int) -> Sequence[int]:
        """The row's sequence ended in ``step``; return the blocks that are free with it.

        Blocks that later steps named are not among them: they come back with those steps.
        """
        resident = row.resident
        resident.has_ended = True
        if resident.is_live:
            self._remove(resident)
            left = _Departed(step, _told(resident), has_ended=True)
            self._departed[resident.sequence_id] = left
        return tuple(resident.block_ids[: row.num_blocks])

    def clear(self) -> None:
        """Let go of everything."""
        for resident in list(self._live.values()):
            self._remove(resident)
        self._departed.clear()

    def _remove(self, resident: Resident) -> None:
        resident.is_live = False
        del self._live[resident.sequence_id]
        if not self._live:
            self._most_live = 0
        self._free_row_ids.append(resident.row_id)


def _told(resident: Resident, block_ids: Sequence[int] = ()) -> ResidentSequence:
    return ResidentSequence(
        sequence_id=resident.sequence_id,
        job_id=resident.admission.job_id,
        index=resident.admission.index,
        num_tokens=resident.num_tokens,
        num_computed=resident.num_computed,
        block_ids=tuple(block_ids),
    )


def _row(resident: Resident, num_tokens: int, new_block_ids: Sequence[int], limits: Limits) -> Row:
    num_blocks = len(resident.block_ids) + len(new_block_ids)
    start, position = resident.num_computed, resident.num_tokens
    if not 1 <= num_tokens <= position - start:
        problem = f"a row of {num_tokens} tokens, {position - start} are pending"
    elif start + num_tokens > num_blocks * limits.block_size:
        problem = f"{start + num_tokens} tokens do not fit {num_blocks} blocks"
    elif num_blocks > limits.max_blocks_per_row:
        problem = f"{num_blocks} blocks, {limits.max_blocks_per_row} at most"
    else:
        is_sampled = num_tokens == position - start
        num_scored = 0
        if resident.scores is not None:
            # The prompt's last token is followed by the output.
            num_scored = max(0, min(num_tokens, resident.num_prompt_tokens - 1 - start))
        head = resident, start, num_tokens, position, is_sampled
        row = (*head, num_blocks, new_block_ids, num_scored)
        # What Row(*row) does, without a call of its own.
        return tuple.__new__(Row, row)
    raise StepRefused(f"sequence {resident.sequence_id}: {problem}")
