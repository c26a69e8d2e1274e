"""A worker without a model: it does what the step protocol says, and trusts nobody.

Every rule that a lane must keep is asserted here. The next token is a hash of all tokens
before it, so that a wrong token, a wrong offset or a token computed twice shows in all that
follow.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from scheduler_svc.core.config import CoreConfig
from stepserve.protocol.prompt_logprobs import PromptLogprobs
from stepserve.protocol.sampling import Sampling
from stepserve.protocol.step import (
    Admission,
    FinishReason,
    HelloReply,
    ResidentSequence,
    StepCommand,
    StepReport,
    TokenLogprobs,
    WorkerInfo,
)

VOCAB_SIZE = 32
# What it is says nothing here: the lane knows it from its config.
INFO = WorkerInfo("", "", "", "", VOCAB_SIZE, 0, 0, 0, 0, 0, 0)
NOT_FINITE = VOCAB_SIZE  # Once in 61 tokens.


def next_token(token_ids: Sequence[int], index: int, sampling: Sampling) -> int:
    """Return the token after ``token_ids``, or NOT_FINITE where the model breaks."""
    text = repr((tuple(token_ids), index, sampling.seed))
    number = zlib.crc32(text.encode())
    return NOT_FINITE if number % 61 == 0 else number % VOCAB_SIZE


def end_of(
    token_ids: Sequence[int], num_prompt_tokens: int, sampling: Sampling, max_context: int
) -> FinishReason | None:
    """Return why the output ends with its last token, if it does."""
    if token_ids[-1] in sampling.stop_token_ids:
        return FinishReason.STOP
    is_full = len(token_ids) - num_prompt_tokens >= sampling.max_tokens
    return FinishReason.LENGTH if is_full or len(token_ids) >= max_context else None


def content_of(token_ids: Sequence[int]) -> list[int]:
    """Return what the cache holds of each token: a hash of all up to it."""
    contents, content = [], 0
    for token_id in token_ids:
        content = zlib.crc32(repr((content, token_id)).encode())
        contents.append(content)
    return contents


def logprobs_of(
    token_id: int, offset: int, prompt: Sequence[int], sampling: Sampling
) -> TokenLogprobs:
    """Return what is told with an output token; of the prompt with the first one, if asked."""
    is_scored = offset == 0 and sampling.prompt_logprobs >= 0
    told = PromptLogprobs.of([-float(i) for i in prompt[1:]], (), ()) if is_scored else None
    return TokenLogprobs(-float(token_id), ((token_id, -float(token_id)),), told)


@dataclass
class _Resident:
    admission: Admission
    token_ids: list[int]
    num_computed: int = 0
    block_ids: list[int] = field(default_factory=list)
    has_ended: bool = False


@dataclass
class _Outcome:
    tokens: list[tuple[int, int, int]] = field(default_factory=list)
    logprobs: dict[int, TokenLogprobs] = field(default_factory=dict)
    finished: list[tuple[int, FinishReason]] = field(default_factory=list)
    freed: dict[int, list[int]] = field(default_factory=dict)
    left: list[int] = field(default_factory=list)


def _told(resident: _Resident, block_ids: Sequence[int] = ()) -> ResidentSequence:
    admission = resident.admission
    return ResidentSequence(
        admission.sequence_id,
        admission.job_id,
        admission.index,
        len(resident.token_ids),
        resident.num_computed,
        tuple(block_ids),
    )


class ModelWorker:
    """Executes commands for the lane that ``config`` describes."""

    def __init__(self, config: CoreConfig) -> None:
        self._config = config
        self._residents: dict[int, _Resident] = {}
        self._last_id = 0
        self._last_named: dict[int, int] = {}  # By sequence id, the step.
        self._num_holders: Counter[int] = Counter()  # By block id.
        self._cache: dict[int, int] = {}  # Slot to the content of its token.
        self._reports: dict[int, StepReport] = {}  # By step, until they are committed.
        self._departed: dict[int, int] = {}  # Sequence id to the step it left in, as long.
        self.last_step = config.first_step - 1
        self.num_tokens = 0

    def execute(self, command: StepCommand) -> StepReport:
        """Do releases, admissions, rows; return the report."""
        self._check_command(command)
        self.last_step = command.step
        outcome = _Outcome()
        for sequence_id in command.release_ids:
            if not self._residents[sequence_id].has_ended:
                self._drop(sequence_id, outcome)
        for admission in command.admissions:
            self._admit(admission)
        new_block_ids = iter(command.new_block_ids)
        for sequence_id, num_tokens, num_new_blocks in zip(
            command.row_sequence_ids,
            command.row_num_tokens,
            command.row_num_new_blocks,
            strict=True,
        ):
            block_ids = [next(new_block_ids) for _ in range(num_new_blocks)]
            self._row(sequence_id, num_tokens, block_ids, outcome)
        assert next(new_block_ids, None) is None, "a block for nobody"
        report = self._reports[command.step] = self._report(command, outcome)
        self._departed |= dict.fromkeys(outcome.left, command.step)
        return report

    def greet(self, epoch: int) -> tuple[HelloReply, list[StepReport]]:
        """Let another lane drive, and tell it what is here and what may not be committed."""
        self._config = replace(self._config, epoch=epoch)
        # Another lane does not know who was named when: it lets all wait for the last step.
        self._last_named = dict.fromkeys(self._last_named, self.last_step)
        live = [r for r in self._residents.values() if not r.has_ended]
        reply = HelloReply(
            INFO,
            self.last_step,
            tuple(_told(resident, resident.block_ids) for resident in live),
            len(self._reports),
            tuple(_told(self._residents[sequence_id]) for sequence_id in self._departed),
            self._last_id,
        )
        return reply, list(self._reports.values())

    @property
    def num_held_blocks(self) -> int:
        return len(self._num_holders)

    def _check_command(self, command: StepCommand) -> None:
        config = self._config
        assert (command.incarnation, command.epoch) == (config.incarnation, config.epoch)
        assert command.step == self.last_step + 1, "a gap in the steps"
        assert command.committed_step <= self.last_step, "committed before it was executed"
        assert command.step - command.committed_step <= config.max_uncommitted_steps
        ids = command.row_sequence_ids
        assert len(set(ids)) == len(ids), "two rows for one sequence"
        assert not set(ids) & set(command.release_ids), "released and named"
        assert sum(command.row_num_tokens) <= config.max_step_tokens, "over budget"
        assert all(count > 0 for count in command.row_num_tokens), "an empty row"
        self._check_turns(command)
        for step in [step for step in self._reports if step <= command.committed_step]:
            del self._reports[step]
        for i in [i for i, step in self._departed.items() if step <= command.committed_step]:
            del self._departed[i]

    def _check_turns(self, command: StepCommand) -> None:
        """No two of the steps that the stages are at name one sequence."""
        last_named, fewest = self._last_named, self._config.num_stages
        for sequence_id in command.row_sequence_ids:
            num_steps = command.step - last_named.get(sequence_id, -fewest)
            assert num_steps >= fewest, "two rows of one sequence are in the pipeline"
            last_named[sequence_id] = command.step
        if not command.row_sequence_ids and not command.release_ids:
            newest = max(last_named.values(), default=-fewest)
            assert command.step - newest < fewest, "a step for nothing"

    def _admit(self, admission: Admission) -> None:
        assert admission.sequence_id > self._last_id, "a sequence id was used before"
        self._last_id = admission.sequence_id
        num_cached = len(admission.block_ids) * self._config.block_size
        assert admission.num_computed == num_cached, "a hit is whole blocks"
        assert num_cached < len(admission.token_ids), "the last token is always computed"
        has_output = len(admission.token_ids) > admission.num_prompt_tokens
        is_scored = admission.sampling.prompt_logprobs >= 0 and not has_output
        assert not (is_scored and num_cached), "a prompt to be scored is computed whole"
        assert self._config.prefix_caching or not num_cached, "a hit without a prefix index"
        self._num_holders.update(admission.block_ids)
        self._residents[admission.sequence_id] = _Resident(
            admission, list(admission.token_ids), num_cached, list(admission.block_ids)
        )
        num_live = sum(not resident.has_ended for resident in self._residents.values())
        assert num_live <= self._config.max_batch_size, "more sequences than places"

    def _row(
        self, sequence_id: int, num_tokens: int, block_ids: list[int], outcome: _Outcome
    ) -> None:
        resident = self._residents[sequence_id]
        if resident.has_ended:
            outcome.freed.setdefault(sequence_id, []).extend(block_ids)
            return
        for block_id in block_ids:
            assert 0 <= block_id < self._config.num_blocks, "no such block"
            assert block_id not in self._num_holders, "a block of another sequence"
            self._num_holders[block_id] = 1
        resident.block_ids += block_ids
        self._compute(resident, num_tokens)
        if resident.num_computed == len(resident.token_ids):
            self._sample(resident, outcome)

    def _compute(self, resident: _Resident, num_tokens: int) -> None:
        """Write the cache, then read all of it back as attention would."""
        start, end = resident.num_computed, resident.num_computed + num_tokens
        assert end <= len(resident.token_ids), "more than is pending"
        contents = content_of(resident.token_ids)
        for position in range(start, end):
            slot = self._slot(resident, position)
            assert self._num_holders[slot // self._config.block_size] == 1, "a shared block"
            self._cache[slot] = contents[position]
        for position in range(end):
            assert self._cache[self._slot(resident, position)] == contents[position]
        resident.num_computed = end
        self.num_tokens += num_tokens

    def _slot(self, resident: _Resident, position: int) -> int:
        number, offset = divmod(position, self._config.block_size)
        assert number < len(resident.block_ids), "no block for a computed token"
        return resident.block_ids[number] * self._config.block_size + offset

    def _sample(self, resident: _Resident, outcome: _Outcome) -> None:
        admission = resident.admission
        sequence_id, sampling = admission.sequence_id, admission.sampling
        token_id = next_token(resident.token_ids, admission.index, sampling)
        reason: FinishReason | None = FinishReason.ERROR
        if token_id != NOT_FINITE:
            offset = len(resident.token_ids) - admission.num_prompt_tokens
            if sampling.logprobs >= 0:
                prompt = admission.token_ids[: admission.num_prompt_tokens]
                told = logprobs_of(token_id, offset, prompt, sampling)
                outcome.logprobs[len(outcome.tokens)] = told
            outcome.tokens.append((sequence_id, offset, token_id))
            resident.token_ids.append(token_id)
            reason = end_of(
                resident.token_ids,
                admission.num_prompt_tokens,
                sampling,
                self._config.max_context,
            )
        if reason is not None:
            outcome.finished.append((sequence_id, reason))
            self._drop(sequence_id, outcome)

    def _drop(self, sequence_id: int, outcome: _Outcome) -> None:
        resident = self._residents[sequence_id]
        resident.has_ended = True
        outcome.left.append(sequence_id)
        self._num_holders -= Counter(resident.block_ids)
        outcome.freed.setdefault(sequence_id, []).extend(resident.block_ids)

    def _report(self, command: StepCommand, outcome: _Outcome) -> StepReport:
        columns = zip(*outcome.tokens, strict=True) if outcome.tokens else ((), (), ())
        sequence_ids, offsets, token_ids = columns
        return StepReport(
            command.incarnation,
            command.epoch,
            command.step,
            sequence_ids,
            offsets,
            token_ids,
            outcome.logprobs,
            outcome.finished,
            [(sequence_id, tuple(ids)) for sequence_id, ids in outcome.freed.items()],
            duration_us=100 + 10 * sum(command.row_num_tokens),
        )
