"""What a worker can hold and compute, and whether a sequence keeps to it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kvstore.blocks import num_blocks_for
from stepserve.protocol.errors import StepRefused
from stepserve.protocol.step import Admission, Sampling

MAX_LOGPROBS = 20
# What a sequence's row on the device holds. 64 stop ids may be asked for; the rest is for the
# ends that a model's configuration names.
MAX_STOP_TOKEN_IDS = 112
MAX_LOGIT_BIASES = 1024
# 0.01 as a float32, which is what travels.
MIN_REPETITION_PENALTY = 0.009999999776482582


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
            "more tokens computed than its blocks hold": admission.num_computed <= num_slots,
            "more blocks than a sequence can have": (
                len(admission.block_ids) <= limits.max_blocks_per_row
            ),
            "a token id is not in the vocabulary": max(admission.token_ids, default=0)
            < limits.vocab_size,
        },
    )
    check_block_ids(admission.block_ids, limits)
    _check_sampling(admission.sequence_id, sampling, limits.vocab_size)


def _check_sampling(sequence_id: int, sampling: Sampling, vocab_size: int) -> None:
    bias_ids = [token_id for token_id, _ in sampling.logit_bias]
    floats = [
        *(bias for _, bias in sampling.logit_bias),
        sampling.temperature,
        sampling.presence_penalty,
        sampling.frequency_penalty,
        sampling.repetition_penalty,
    ]
    _require(
        sequence_id,
        {
            "a sampling value is not finite": all(map(math.isfinite, floats)),
            "temperature is negative": sampling.temperature >= 0,
            "top_p is not above 0 and at most 1": 0 < sampling.top_p <= 1,
            "min_p is not between 0 and 1": 0 <= sampling.min_p <= 1,
            "repetition_penalty is below 0.01": (
                sampling.repetition_penalty >= MIN_REPETITION_PENALTY
            ),
            f"logprobs are more than {MAX_LOGPROBS}": sampling.num_logprobs <= MAX_LOGPROBS,
            f"more than {MAX_STOP_TOKEN_IDS} stop token ids": (
                len(sampling.stop_token_ids) <= MAX_STOP_TOKEN_IDS
            ),
            f"more than {MAX_LOGIT_BIASES} tokens are biased": len(bias_ids) <= MAX_LOGIT_BIASES,
            "a biased token id is not in the vocabulary": max(bias_ids, default=0) < vocab_size,
            "a token id is biased twice": len(set(bias_ids)) == len(bias_ids),
        },
    )


def _require(sequence_id: int, conditions: dict[str, bool]) -> None:
    for problem, holds in conditions.items():
        if not holds:
            raise StepRefused(f"sequence {sequence_id}: {problem}")


def check_block_ids(block_ids: Sequence[int], limits: Limits) -> None:
    """Raise StepRefused where a block is not in the cache."""
    if max(block_ids, default=0) >= limits.num_blocks:
        raise StepRefused(f"a block id is not below {limits.num_blocks}")
