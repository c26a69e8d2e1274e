"""One output of a job inside a core: its tokens, its progress, and its legal moves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, auto

from kvstore.blocks import num_blocks_for
from kvstore.prefix import Key, keys_from, salt_of
from scheduler_svc.core.errors import IllegalMove, ProtocolError
from stepserve.protocol.job import JobSpec
from stepserve.protocol.sampling import Sampling
from stepserve.protocol.step import Admission, ResidentSequence


class State(Enum):
    """Where a sequence is; the roster has a group for each."""

    WAITING = auto()  # In the lane only: the worker does not know it.
    RUNNING = auto()  # Admitted; a step may name it.
    PREEMPTED = auto()  # Leaving the worker, to wait again with all tokens it has by then.
    ENDED = auto()  # Its output has ended; the worker still owes its blocks.
    GONE = auto()  # Forgotten.


class Move(Enum):
    """What can happen to a sequence."""

    ADMIT = auto()  # A command carries it to the worker.
    PREEMPT = auto()  # Its blocks are needed.
    END = auto()  # Finished, stopped, cancelled: no more tokens are wanted.
    RETURN = auto()  # No step that names it is in flight, and it holds no block.


MOVES = {
    State.WAITING: {Move.ADMIT: State.RUNNING, Move.END: State.GONE},
    State.RUNNING: {Move.PREEMPT: State.PREEMPTED, Move.END: State.ENDED},
    State.PREEMPTED: {Move.END: State.ENDED, Move.RETURN: State.WAITING},
    State.ENDED: {Move.RETURN: State.GONE},
    State.GONE: {},
}


@dataclass(slots=True, eq=False, kw_only=True)
class Sequence:
    """A job's output ``index``; its ``key`` is (job id, index).

    There are no phases. ``token_ids`` is the prompt and the output known so far;
    ``num_tokens`` runs ahead of it by the tokens that the steps in flight will choose, and
    ``num_computed`` counts what those steps will have computed. What is pending is the
    difference. ``max_length`` bounds prompt and output together; the last token is chosen,
    never computed. ``order`` compares it with the others, lowest first: by the rank that the
    policy gave its job.
    """

    spec: JobSpec = field(repr=False)
    index: int
    rank: float
    sampling: Sampling = field(repr=False)
    token_ids: list[int] = field(repr=False)
    max_length: int
    state: State = State.WAITING
    sequence_id: int = 0
    key: tuple[str, int] = field(init=False)
    order: tuple[float, float, str, int] = field(init=False)
    num_prompt_tokens: int = field(init=False)
    wants_logprobs: bool = field(init=False)
    num_tokens: int = field(init=False)
    num_computed: int = 0
    block_ids: list[int] = field(default_factory=list)
    last_step: int = 0  # The newest step that names it.
    block_keys: list[Key] = field(default_factory=list, repr=False)
    num_shared: int = 0  # Blocks that others held when it was let in.
    num_indexed: int = 0  # Blocks that the prefix index has been told of.
    quantile: float = 0.5  # At which of the lengths of outputs like it it is taken to end.
    expected_length: float = 0.0  # Of prompt and output, as last looked up.
    expect_again_at: int = 0  # The number of tokens at which to look again.
    num_preemptions: int = 0
    num_lost: int = 0  # Tokens whose computation was lost when it was preempted.

    def __post_init__(self) -> None:
        self.key = self.spec.job_id, self.index
        self.order = self.rank, self.spec.arrival_s, *self.key
        self.num_prompt_tokens = len(self.spec.prompt_token_ids)
        self.wants_logprobs = self.sampling.logprobs >= 0
        self.num_tokens = len(self.token_ids)

    @property
    def num_outputs(self) -> int:
        """Output tokens known; the offset of the next one."""
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def scores_prompt(self) -> bool:
        """Whether its prompt's log-probabilities are still to come: all of it is to be computed."""
        return self.sampling.prompt_logprobs >= 0 and not self.num_outputs

    @property
    def num_pending(self) -> int:
        return self.num_tokens - self.num_computed

    @property
    def is_full(self) -> bool:
        """Whether its last token is chosen, or will be by a step in flight."""
        return self.num_tokens >= self.max_length

    @property
    def is_cut(self) -> bool:
        """Whether the worker's context ends it before what was asked does."""
        return self.max_length < self.num_prompt_tokens + self.sampling.max_tokens

    def move(self, move: Move) -> None:
        """Make ``move``. Raises IllegalMove where the table has no entry."""
        try:
            self.state = MOVES[self.state][move]
        except KeyError:
            raise IllegalMove(f"{self.key}: {move.name} while {self.state.name}") from None

    def num_blocks_wanted(self, block_size: int) -> int:
        """Blocks for every token that it will have computed once nothing is pending."""
        return num_blocks_for(min(self.num_tokens, self.max_length - 1), block_size)

    def keys_of(self, num_blocks: int, block_size: int) -> list[Key]:
        """Return the keys of its first blocks; their tokens must be known."""
        keys = self.block_keys
        if len(keys) < num_blocks:
            parent = keys[-1] if keys else salt_of(self.spec.tenant)
            missing = range(len(keys), num_blocks)
            keys.extend(keys_from(parent, self.token_ids, block_size, missing))
        return self.block_keys[:num_blocks]

    def admission(self) -> Admission:
        """Return the sequence in full, as the worker gets it: with the blocks it has now."""
        return Admission(
            sequence_id=self.sequence_id,
            job_id=self.spec.job_id,
            index=self.index,
            token_ids=tuple(self.token_ids),
            num_prompt_tokens=self.num_prompt_tokens,
            sampling=self.sampling,
            num_computed=self.num_computed,
            block_ids=tuple(self.block_ids),
        )

    def resume(self, held: ResidentSequence, last_step: int) -> None:
        """Go on from what the worker holds of it after ``last_step``.

        Tokens that are not known here come with the reports of the steps up to that one.
        """
        self.sequence_id, self.last_step = held.sequence_id, last_step
        self.num_tokens, self.num_computed = held.num_tokens, held.num_computed
        self.block_ids = list(held.block_ids)

    def give_back(self, block_ids: Iterable[int]) -> None:
        """Hold ``block_ids`` no longer. Raises ProtocolError where one is not its own."""
        returned = set(block_ids)
        kept = [block_id for block_id in self.block_ids if block_id not in returned]
        if len(kept) + len(returned) != len(self.block_ids):
            raise ProtocolError(f"{self.key} gives back blocks that it does not hold")
        self.block_ids = kept

    def rewind(self) -> None:
        """Forget the worker: everything is pending again, nothing is in flight."""
        self.num_preemptions += 1
        self.num_lost = self.num_computed
        self.sequence_id = self.num_computed = self.num_indexed = self.last_step = 0
        self.num_tokens = len(self.token_ids)
