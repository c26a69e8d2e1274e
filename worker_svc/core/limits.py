"""What a worker can hold and compute, and whether a sequence keeps to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kvstore.blocks import num_blocks_for
from stepserve.protocol.errors import StepRefused
from stepserve.protocol.step import Admission


@dataclass(frozen=True, slots=True)
class Limits:
    """What a worker can hold and compute; worker.proto's WorkerInfo says what each means."""

    vocab_size: int
    max_context: int
    block_size: int
    num_blocks: int
    max_batch_size: int
    max_step_tokens: int

    @property
    def max_blocks_per_row(self) -> int:
        """Blocks of the longest sequence."""
        return num_blocks_for(self.max_context, self.block_size)


def check_admission(admission: Admission, limits: Limits) -> None:
    """Raise StepRefused where the sequence cannot be computed as it is described."""
    num_tokens, prompt = len(admission.token_ids), admission.num_prompt_tokens
    num_slots = len(admission.block_ids) * limits.block_size
    sampling = admission.sampling
    _require(
        admission.sequence_id,
        {
            "needs an id below 2^31": admission.sequence_id < 2**31,
            f"{num_tokens} tokens, below {limits.max_context} there is room for another": (
                num_tokens < limits.max_context
            ),
            f"{prompt} prompt tokens of {num_tokens}": 1 <= prompt <= num_tokens,
            "max_tokens is reached already": num_tokens - prompt < sampling.max_tokens,
            f"{admission.num_computed} tokens computed of {num_tokens}": (
                admission.num_computed < num_tokens
            ),
            "a prompt whose log-probabilities are asked for is computed from its beginning": (
                sampling.prompt_logprobs < 0 or num_tokens > prompt or admission.num_computed == 0
            ),
            "prompt_logprobs come with logprobs, which are not asked for": (
                sampling.prompt_logprobs < 0 or sampling.logprobs >= 0
            ),
            "more tokens computed than its blocks hold": admission.num_computed <= num_slots,
            "more blocks than a sequence can have": (
                len(admission.block_ids) <= limits.max_blocks_per_row
            ),
            "a token id is not in the vocabulary": max(admission.token_ids, default=0)
            < limits.vocab_size,
        },
    )
    check_block_ids(admission.block_ids, limits)
    if problem := sampling.problem(limits.vocab_size):
        raise StepRefused(f"sequence {admission.sequence_id}: {problem}")


def _require(sequence_id: int, conditions: dict[str, bool]) -> None:
    for problem, holds in conditions.items():
        if not holds:
            raise StepRefused(f"sequence {sequence_id}: {problem}")


def check_block_ids(block_ids: Sequence[int], limits: Limits) -> None:
    """Raise StepRefused where a block is not in the cache."""
    if max(block_ids, default=0) >= limits.num_blocks:
        raise StepRefused(f"a block id is not below {limits.num_blocks}")
