"""One packed record a row: all that choosing a sequence's tokens and seeing its end needs.

Written once, at admission, and read by kernels where it lies. Floats are stored by their bits.
What the values make unnecessary is packed as "none": a sequence that takes the likeliest token
has temperature 0 and nothing cut off, so a device need not repeat the host's reasoning.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stepserve.protocol.sampling import MAX_END_TOKENS, Sampling
from stepserve.protocol.step import Admission
from worker_svc.core.needs import Needs

RECORD_WORDS = 128
# Words of a record.
SEED_LOW, SEED_HIGH, INDEX, TOP_K = 0, 1, 2, 3
TEMPERATURE, TOP_P, MIN_P = 4, 5, 6
PRESENCE, FREQUENCY, REPETITION = 7, 8, 9
NUM_PROMPT_TOKENS, MAX_TOKENS, NUM_BIASES, NUM_LOGPROBS, NUM_STOPS = 10, 11, 12, 13, 14
FIRST_STOP = 16
assert FIRST_STOP + MAX_END_TOKENS == RECORD_WORDS


_MAX_INT32 = 2**31 - 1


def pack_record(admission: Admission, max_tokens: int) -> npt.NDArray[np.int32]:
    """``[RECORD_WORDS]`` of a sequence that ends at ``max_tokens``, prompt and output together."""
    sampling = admission.sampling
    needs = Needs.of(sampling)
    stops = sampling.stop_token_ids
    words = np.zeros(RECORD_WORDS, dtype=np.uint32)
    words[[SEED_LOW, SEED_HIGH]] = sampling.seed & 0xFFFFFFFF, sampling.seed >> 32
    words[INDEX] = admission.index
    words[TOP_K] = min(sampling.top_k, _MAX_INT32) if needs.cut else 0
    words[NUM_PROMPT_TOKENS] = admission.num_prompt_tokens
    words[MAX_TOKENS] = max_tokens
    words[NUM_BIASES] = len(sampling.logit_bias)
    words[NUM_LOGPROBS] = sampling.logprobs & 0xFFFFFFFF
    words[NUM_STOPS] = len(stops)
    words[FIRST_STOP : FIRST_STOP + len(stops)] = stops
    floats = words.view(np.float32)
    floats[TEMPERATURE] = sampling.temperature if needs.draw else 0
    floats[TOP_P] = sampling.top_p if needs.cut else 1
    floats[MIN_P] = sampling.min_p if needs.cut else 0
    floats[PRESENCE] = sampling.presence_penalty
    floats[FREQUENCY] = sampling.frequency_penalty
    floats[REPETITION] = sampling.repetition_penalty
    return words.view(np.int32)


def pack_biases(sampling: Sampling) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """The biased token ids ``[B]`` and the bits of their float32 biases ``[B]``."""
    token_ids, biases = zip(*sampling.logit_bias, strict=True) if sampling.logit_bias else ((), ())
    return np.array(token_ids, dtype=np.int32), np.array(biases, dtype=np.float32).view(np.int32)


class _Word:
    """A word of all records, as integers or as the floats of these bits."""

    def __init__(self, word: int, dtype: torch.dtype = torch.int32) -> None:
        self._word, self._dtype = word, dtype

    def __get__(self, columns: Columns, _owner: type[Columns]) -> Tensor:
        return columns.records.view(self._dtype)[:, self._word]


@dataclass(frozen=True, slots=True)
class Columns:
    """Records ``[max_rows, RECORD_WORDS]`` int32 by name; views ``[max_rows]``, strided.

    ``top_k`` 0 is the whole vocabulary, ``temperature`` 0 the likeliest token, ``num_logprobs``
    -1 none.
    """

    records: Tensor

    index = _Word(INDEX)
    top_k = _Word(TOP_K)
    num_prompt_tokens = _Word(NUM_PROMPT_TOKENS)
    max_tokens = _Word(MAX_TOKENS)
    num_biases = _Word(NUM_BIASES)
    num_logprobs = _Word(NUM_LOGPROBS)
    num_stops = _Word(NUM_STOPS)
    temperature = _Word(TEMPERATURE, torch.float32)
    top_p = _Word(TOP_P, torch.float32)
    min_p = _Word(MIN_P, torch.float32)
    presence = _Word(PRESENCE, torch.float32)
    frequency = _Word(FREQUENCY, torch.float32)
    repetition = _Word(REPETITION, torch.float32)

    def __getitem__(self, row_ids: Tensor) -> Columns:
        """The columns of these rows; a copy."""
        return Columns(self.records[row_ids])

    @property
    def seed(self) -> Tensor:
        """``[max_rows]`` int64, the bits of an unsigned number; a copy."""
        low, high = self.records[:, SEED_LOW].long(), self.records[:, SEED_HIGH].long()
        return (low & 0xFFFFFFFF) | (high << 32)

    @property
    def stop_token_ids(self) -> Tensor:
        """``[max_rows, MAX_END_TOKENS]``: the first ``num_stops`` of a row are meant."""
        return self.records[:, FIRST_STOP:]
