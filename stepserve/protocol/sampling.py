"""How tokens are chosen: each parameter's name, default and range, stated here and nowhere else.

``Sampling`` is resolved: it is what a job stores, what a step carries and what a worker checks.
``SamplingParams`` is what a client asks for, with the same fields, each of which may be left
open. What a field means is stated in the protos.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, get_type_hints

from stepserve.protocol.limits import U32, U64, MaxItems
from stepserve.protocol.structured import StructuredOutputs

MAX_LOGPROBS = 20
MAX_OUTPUTS = 16
MAX_STOPS = 16
MAX_STOP_CHARS = 256
# That a request may name; with the model's own ends a sequence has at most MAX_END_TOKENS, which
# is what fits into its record on the device.
MAX_STOP_TOKEN_IDS = 64
MAX_END_TOKENS = 112
MAX_LOGIT_BIASES = 1024


@dataclass(frozen=True, slots=True)
class Range:
    """From ``low`` to ``high``; where it ``is_open``, a number must exceed ``low``."""

    low: float
    high: float
    is_open: bool = False

    def problem(self, value: float) -> str:
        """Return what is wrong with a number, or nothing."""
        too_low = value <= self.low if self.is_open else value < self.low
        if math.isfinite(value) and not too_low and value <= self.high:
            return ""
        low = f"more than {self.low:g} and at most" if self.is_open else f"from {self.low:g} to"
        return f"must be {low} {self.high:g}, not {value:g}"


BIAS_RANGE = Range(-100, 100)


@dataclass(frozen=True, slots=True)
class Sampling:
    """Every default and the seed are resolved.

    A number with a range is in it, or is its default: ``logprobs`` is -1 where none were asked
    for, and so is ``prompt_logprobs``, which come with the output's. ``stop_token_ids`` holds every
    id that ends the output: the request's, and the model's own unless ``ignore_eos``.
    """

    max_tokens: int
    temperature: Annotated[float, Range(0, 100)] = 1.0
    top_p: Annotated[float, Range(0, 1, is_open=True)] = 1.0
    top_k: int = 0
    min_p: Annotated[float, Range(0, 1)] = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    presence_penalty: Annotated[float, Range(-2, 2)] = 0.0
    frequency_penalty: Annotated[float, Range(-2, 2)] = 0.0
    # From 0.01 as a float32, which is what travels.
    repetition_penalty: Annotated[float, Range(0.009999999776482582, 10)] = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: Annotated[int, Range(0, MAX_LOGPROBS)] = -1
    n: Annotated[int, Range(1, MAX_OUTPUTS)] = 1
    min_tokens: int = 0
    structured_outputs: StructuredOutputs | None = None
    prompt_logprobs: Annotated[int, Range(0, MAX_LOGPROBS)] = -1

    def for_worker(self) -> Sampling:
        """Return what choosing the tokens of one output takes; the rest is its lane's affair."""
        return replace(self, stop=(), ignore_eos=False, n=1)

    def problem(self, vocab_size: int) -> str:
        """Return what keeps a worker from computing with these values, or nothing."""
        for name, limits in RANGES.items():
            value = getattr(self, name)
            if value != DEFAULTS[name] and (problem := limits.problem(value)):
                return f"{name} {problem}"
        if len(self.stop_token_ids) > MAX_END_TOKENS:
            return f"more than {MAX_END_TOKENS} stop token ids"
        if self.min_tokens > self.max_tokens:
            return f"min_tokens {self.min_tokens} is more than max_tokens {self.max_tokens}"
        structured = self.structured_outputs
        if structured is not None and (problem := structured.problem()):
            return f"structured_outputs {problem}"
        return self._bias_problem(vocab_size)

    def _bias_problem(self, vocab_size: int) -> str:
        ids = [token_id for token_id, _ in self.logit_bias]
        if len(ids) > MAX_LOGIT_BIASES:
            return f"more than {MAX_LOGIT_BIASES} tokens are biased"
        if max(ids, default=0) >= vocab_size:
            return "a biased token id is not in the vocabulary"
        if len(set(ids)) < len(ids):
            return "a token id is biased twice"
        problems = (BIAS_RANGE.problem(bias) for _, bias in self.logit_bias)
        return next((f"a bias {problem}" for problem in problems if problem), "")


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to choose tokens; None is the default that inference.proto states."""

    max_tokens: U32 | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: U32 | None = None
    min_p: float | None = None
    seed: U64 | None = None
    stop: Annotated[Sequence[str], MaxItems(MAX_STOPS)] = ()
    stop_token_ids: Annotated[Sequence[U32], MaxItems(MAX_STOP_TOKEN_IDS)] = ()
    ignore_eos: bool | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: Annotated[Mapping[U32, float], MaxItems(MAX_LOGIT_BIASES)] = field(
        default_factory=dict
    )
    logprobs: U32 | None = None
    n: U32 | None = None
    min_tokens: U32 | None = None
    structured_outputs: StructuredOutputs | None = None
    prompt_logprobs: U32 | None = None


RANGES: Mapping[str, Range] = {
    name: limits
    for name, hint in get_type_hints(Sampling, include_extras=True).items()
    for limits in getattr(hint, "__metadata__", ())
}
DEFAULTS: Mapping[str, Any] = {
    each.name: each.default for each in fields(Sampling) if each.name in RANGES
}
