"""What the sampler takes and gives: rows that get a token, and the tokens, all on the device."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor


class SampledRows(NamedTuple):
    """The S rows of logits that get a token.

    Attributes:
        row_ids: ``[S]`` int32, the sequence's row in the tables; -1 is a padded row, whose choice
            means nothing.
        positions: ``[S]`` int32, the new token's index in its sequence: its tokens so far.
    """

    row_ids: Tensor
    positions: Tensor


class Logprobs(NamedTuple):
    """Natural logarithms of probabilities; of chosen tokens after penalties and bias, before
    temperature.

    K is the most that a row of the step asked for, or the vocabulary. Of rows that did not ask
    nothing is meant.

    Attributes:
        chosen: ``[S]`` float32, the chosen token's.
        top_ids, top: ``[S, K]`` int32 and float32, the likeliest tokens', likeliest first.
    """

    chosen: Tensor
    top_ids: Tensor
    top: Tensor


class Choice(NamedTuple):
    """What S rows chose.

    Attributes:
        token_ids: ``[S]`` int32.
        is_finite: ``[S]`` int32, 0 or 1; where 0 a logit was not finite, and the token (which is
            in the vocabulary all the same) means nothing.
        logprobs: where a row of the step asked for them.
        scores: of tokens of prompts, where rows of the step asked for them: no row of these S.
    """

    token_ids: Tensor
    is_finite: Tensor
    logprobs: Logprobs | None = None
    scores: Logprobs | None = None


class SamplingTable(Protocol):
    """The rows on the device, as far as choosing and ending concern them.

    Attributes:
        token_ids: ``[max_rows, max_context]`` int32, prompt and output.
        records: ``[max_rows, RECORD_WORDS]`` int32, see ``record``.
        has_ended: ``[max_rows]`` int32, 0 or 1.
        bias_ids, bias_values: ``[max_rows, max biases]`` int32 and float32; of a row the first
            ``num_biases`` are meant.
    """

    @property
    def token_ids(self) -> Tensor: ...
    @property
    def records(self) -> Tensor: ...
    @property
    def has_ended(self) -> Tensor: ...
    @property
    def bias_ids(self) -> Tensor: ...
    @property
    def bias_values(self) -> Tensor: ...
