"""From the sampling that a client asks for to the one that is computed, or to an error."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from scheduler_svc.text.model_card import ModelCard
from stepserve.protocol.errors import InvalidRequest
from stepserve.protocol.packed import float32
from stepserve.protocol.prompt_logprobs import MAX_PROMPT_LOGPROBS
from stepserve.protocol.sampling import (
    BIAS_RANGE,
    DEFAULTS,
    MAX_END_TOKENS,
    MAX_STOP_CHARS,
    RANGES,
    Range,
    Sampling,
    SamplingParams,
)
from stepserve.protocol.structured import StructuredOutputs


def resolve_sampling(asked: SamplingParams, card: ModelCard, num_prompt_tokens: int) -> Sampling:
    """Return the sampling with every default filled in; a seed is drawn where none is given.

    What is left open is as the model's maker wants it, where he says, else as the API states.
    What is asked fits its fields already. Numbers are rounded as they will travel. Raises
    InvalidRequest naming the field that is out of its range.
    """
    room = card.max_context - num_prompt_tokens
    max_tokens = min(card.sampling_defaults.max_tokens or room, room)
    if asked.max_tokens is not None:
        max_tokens = _max_tokens(asked.max_tokens, room)
    asked = _with_defaults(asked, card.sampling_defaults)
    numbers: dict[str, Any] = {name: _number(name, getattr(asked, name)) for name in RANGES}
    numbers["logprobs"] = _logprobs(numbers, num_prompt_tokens)
    top_k = asked.top_k or 0
    stop_token_ids = _stop_token_ids(asked, card)
    return Sampling(
        max_tokens=max_tokens,
        # Keeping as many as there are is keeping all.
        top_k=top_k if top_k < card.vocab_size else 0,
        seed=asked.seed if asked.seed is not None else secrets.randbits(64),
        stop=_stops(asked.stop, card),
        stop_token_ids=stop_token_ids,
        ignore_eos=bool(asked.ignore_eos),
        logit_bias=_logit_bias(asked.logit_bias, card.vocab_size),
        min_tokens=_min_tokens(asked.min_tokens or 0, max_tokens),
        structured_outputs=_structured(asked, card, stop_token_ids),
        **numbers,
    )


def check_token_ids(path: str, token_ids: Sequence[int], vocab_size: int) -> None:
    """Raise InvalidRequest for an id that is not in the vocabulary; none is negative."""
    if max(token_ids, default=0) < vocab_size:
        return
    for position, token_id in enumerate(token_ids):
        if token_id >= vocab_size:
            problem = f"{token_id} is not a token id; there are {vocab_size}"
            raise InvalidRequest(f"{path}[{position}]", problem)


def _number(name: str, given: float | None) -> float:
    default: float = DEFAULTS[name]
    if given is None:
        return default
    number = float32(given) if isinstance(default, float) else given
    return _within(RANGES[name], f"sampling.{name}", number)


def _within(limits: Range, path: str, number: float) -> float:
    if problem := limits.problem(number):
        raise InvalidRequest(path, problem)
    return number


def _logprobs(numbers: Mapping[str, Any], num_prompt_tokens: int) -> int:
    """Return ``logprobs``: the prompt's come with those of the first output token."""
    logprobs, of_prompt = int(numbers["logprobs"]), int(numbers["prompt_logprobs"])
    num_tokens = num_prompt_tokens * int(numbers["n"])
    if num_tokens * (1 + of_prompt) > MAX_PROMPT_LOGPROBS:
        problem = (
            f"its own and {of_prompt} likeliest of each of {num_tokens} tokens, of each output's"
            f" prompt, are more than {MAX_PROMPT_LOGPROBS} log-probabilities"
        )
        raise InvalidRequest("sampling.prompt_logprobs", problem)
    return max(logprobs, 0) if of_prompt >= 0 else logprobs


def _with_defaults(asked: SamplingParams, defaults: SamplingParams) -> SamplingParams:
    stated = {each.name: getattr(defaults, each.name) for each in fields(defaults)}
    missing = {
        name: value
        for name, value in stated.items()
        if value is not None and getattr(asked, name) is None
    }
    return replace(asked, **missing)


def _max_tokens(given: int, room: int) -> int:
    if given < 1:
        raise InvalidRequest("sampling.max_tokens", f"must be at least 1, not {given}")
    if given > room:
        problem = f"must be from 1 to {room}, what the prompt leaves of the context"
        raise InvalidRequest("sampling.max_tokens", f"{problem}, not {given}")
    return given


def _min_tokens(given: int, max_tokens: int) -> int:
    if given > max_tokens:
        problem = f"must be at most {max_tokens}, as many as there may be, not {given}"
        raise InvalidRequest("sampling.min_tokens", problem)
    return given


def _structured(
    asked: SamplingParams, card: ModelCard, stop_token_ids: Sequence[int]
) -> StructuredOutputs | None:
    """Return what the text has to be, of which only the form is looked at."""
    structured, path = asked.structured_outputs, "sampling.structured_outputs"
    if structured is None:
        return None
    if problem := structured.problem():
        raise InvalidRequest(path, problem)
    if card.tokenizer is None:
        raise InvalidRequest(path, "this model has no tokenizer")
    if asked.ignore_eos:
        raise InvalidRequest("sampling.ignore_eos", "a structured output ends where it is complete")
    if not stop_token_ids:
        raise InvalidRequest(path, "this model has no end token: name one in stop_token_ids")
    return replace(structured, choice=tuple(dict.fromkeys(structured.choice)))


def _stops(stops: Sequence[str], card: ModelCard) -> tuple[str, ...]:
    if stops and card.tokenizer is None:
        raise InvalidRequest("sampling.stop", "this model has no tokenizer")
    for position, stop in enumerate(stops):
        if not 1 <= len(stop) <= MAX_STOP_CHARS:
            problem = f"must have 1 to {MAX_STOP_CHARS} characters, not {len(stop)}"
            raise InvalidRequest(f"sampling.stop[{position}]", problem)
    return tuple(dict.fromkeys(stops))


def _stop_token_ids(asked: SamplingParams, card: ModelCard) -> tuple[int, ...]:
    check_token_ids("sampling.stop_token_ids", asked.stop_token_ids, card.vocab_size)
    ends = frozenset() if asked.ignore_eos else card.eos_token_ids
    stop_token_ids = ends.union(asked.stop_token_ids)
    if len(stop_token_ids) > MAX_END_TOKENS:
        problem = f"with the model's own at most {MAX_END_TOKENS} are possible"
        raise InvalidRequest("sampling.stop_token_ids", problem)
    return tuple(sorted(stop_token_ids))


def _logit_bias(biases: Mapping[int, float], vocab_size: int) -> tuple[tuple[int, float], ...]:
    checked = {}
    for token_id, bias in biases.items():
        path = f"sampling.logit_bias[{token_id}]"
        if token_id >= vocab_size:
            raise InvalidRequest(path, f"is not a token id; there are {vocab_size}")
        checked[token_id] = _within(BIAS_RANGE, path, float32(bias))
    return tuple(sorted(checked.items()))
