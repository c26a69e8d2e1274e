"""Sampling parameters: their ranges, and their defaults."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scheduler_svc.text.model_card import MAX_END_TOKENS, ModelCard
from stepserve.protocol.errors import InvalidRequest
from stepserve.protocol.inference_wire import WireSampling
from stepserve.protocol.job import SamplingParams

MAX_LOGPROBS = 20
MAX_OUTPUTS = 16
MAX_STOPS = 16
MAX_STOP_CHARS = 256
MAX_STOP_TOKEN_IDS = 64
MAX_LOGIT_BIASES = 1024
MAX_LOGIT_BIAS = 100.0


@dataclass(frozen=True, slots=True)
class _Range:
    """A number's default and its limits; ``above`` is one that it must exceed."""

    default: float
    low: float
    high: float
    above: bool = False

    def check(self, path: str, value: float) -> float:
        too_low = value <= self.low if self.above else value < self.low
        if not math.isfinite(value) or too_low or value > self.high:
            low = f"more than {self.low:g} and at most" if self.above else f"from {self.low:g} to"
            raise InvalidRequest(path, f"must be {low} {self.high:g}, not {value:g}")
        return value


_RANGES = {
    "temperature": _Range(1.0, 0, 100),
    "top_p": _Range(1.0, 0, 1, above=True),
    "min_p": _Range(0.0, 0, 1),
    "presence_penalty": _Range(0.0, -2, 2),
    "frequency_penalty": _Range(0.0, -2, 2),
    "repetition_penalty": _Range(1.0, 0.009999999776482582, 10),  # from 0.01 as a float32
}
_NUM_OUTPUTS = _Range(1, 1, MAX_OUTPUTS)
_NUM_LOGPROBS = _Range(-1, 0, MAX_LOGPROBS)
_LOGIT_BIAS = _Range(0, -MAX_LOGIT_BIAS, MAX_LOGIT_BIAS)


def resolve_sampling(wire: WireSampling, card: ModelCard, num_prompt_tokens: int) -> SamplingParams:
    """Return the sampling with every default filled in; a seed is drawn where none is given.

    Raises InvalidRequest naming the field that is out of its range.
    """
    numbers = {
        name: limits.check(f"sampling.{name}", getattr(wire, name))
        if wire.HasField(name)
        else limits.default
        for name, limits in _RANGES.items()
    }
    return SamplingParams(
        max_tokens=_max_tokens(wire, card.max_context - num_prompt_tokens),
        # Keeping as many as there are is keeping all.
        top_k=wire.top_k if wire.top_k < card.vocab_size else 0,
        seed=wire.seed if wire.HasField("seed") else secrets.randbits(64),
        stop=_stops(wire.stop, card),
        stop_token_ids=_stop_token_ids(wire, card),
        ignore_eos=wire.ignore_eos,
        logit_bias=_logit_bias(wire, card.vocab_size),
        logprobs=_count(wire, "logprobs", _NUM_LOGPROBS),
        n=_count(wire, "n", _NUM_OUTPUTS),
        **numbers,
    )


def check_token_ids(path: str, token_ids: Iterable[int], vocab_size: int) -> None:
    """Raise InvalidRequest for an id that is not in the vocabulary."""
    for position, token_id in enumerate(token_ids):
        if token_id >= vocab_size:
            problem = f"{token_id} is not a token id; there are {vocab_size}"
            raise InvalidRequest(f"{path}[{position}]", problem)


def _count(wire: WireSampling, name: str, limits: _Range) -> int:
    given = wire.HasField(name)
    return int(limits.check(f"sampling.{name}", getattr(wire, name)) if given else limits.default)


def _max_tokens(wire: WireSampling, room: int) -> int:
    if not wire.HasField("max_tokens"):
        return room
    if not 1 <= wire.max_tokens <= room:
        problem = f"must be from 1 to {room}, what the prompt leaves of the context"
        raise InvalidRequest("sampling.max_tokens", f"{problem}, not {wire.max_tokens}")
    return wire.max_tokens


def _stops(stops: Sequence[str], card: ModelCard) -> tuple[str, ...]:
    if stops and card.tokenizer is None:
        raise InvalidRequest("sampling.stop", "this model has no tokenizer")
    if len(stops) > MAX_STOPS:
        raise InvalidRequest("sampling.stop", f"at most {MAX_STOPS} are possible")
    for position, stop in enumerate(stops):
        if not 1 <= len(stop) <= MAX_STOP_CHARS:
            problem = f"must have 1 to {MAX_STOP_CHARS} characters, not {len(stop)}"
            raise InvalidRequest(f"sampling.stop[{position}]", problem)
    return tuple(dict.fromkeys(stops))


def _stop_token_ids(wire: WireSampling, card: ModelCard) -> tuple[int, ...]:
    if len(wire.stop_token_ids) > MAX_STOP_TOKEN_IDS:
        problem = f"at most {MAX_STOP_TOKEN_IDS} are possible"
        raise InvalidRequest("sampling.stop_token_ids", problem)
    check_token_ids("sampling.stop_token_ids", wire.stop_token_ids, card.vocab_size)
    ends = frozenset() if wire.ignore_eos else card.eos_token_ids
    stop_token_ids = ends.union(wire.stop_token_ids)
    if len(stop_token_ids) > MAX_END_TOKENS:
        problem = f"with the model's own at most {MAX_END_TOKENS} are possible"
        raise InvalidRequest("sampling.stop_token_ids", problem)
    return tuple(sorted(stop_token_ids))


def _logit_bias(wire: WireSampling, vocab_size: int) -> tuple[tuple[int, float], ...]:
    if len(wire.logit_bias) > MAX_LOGIT_BIASES:
        raise InvalidRequest("sampling.logit_bias", f"at most {MAX_LOGIT_BIASES} are possible")
    for token_id, bias in wire.logit_bias.items():
        path = f"sampling.logit_bias[{token_id}]"
        if token_id >= vocab_size:
            raise InvalidRequest(path, f"is not a token id; there are {vocab_size}")
        _LOGIT_BIAS.check(path, bias)
    return tuple(sorted(wire.logit_bias.items()))
