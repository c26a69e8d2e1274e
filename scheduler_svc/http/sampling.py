"""How tokens are to be chosen, from the fields that OpenAI and vLLM have for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scheduler_svc.frontend.validate import MAX_PRIORITY
from scheduler_svc.http.errors import invalid
from scheduler_svc.http.values import integer, mapping, wrong_type
from stepserve.protocol.sampling import SamplingParams
from stepserve.protocol.structured import StructuredOutputs

# Those that are called the same there; what is in them the front end looks at.
_SAME = (
    "temperature",
    "top_p",
    "min_p",
    "seed",
    "stop_token_ids",
    "ignore_eos",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "n",
    "min_tokens",
)


def sampling_of(
    body: Mapping[str, Any],
    max_tokens: Any,
    logprobs: int | None = None,
    structured: StructuredOutputs | None = None,
    prompt_logprobs: int | None = None,
) -> SamplingParams:
    """Return what a request says of it. Raises ApiError where a field is of no use at all."""
    same = {name: body[name] for name in _SAME if body.get(name) is not None}
    if isinstance(seed := same.get("seed"), int) and seed < 0:
        # OpenAI's are signed; each is a seed of its own all the same.
        same["seed"] = seed % 2**64
    return SamplingParams(
        max_tokens=max_tokens,
        top_k=_top_k(body.get("top_k")),
        stop=_stops(body.get("stop")),
        logit_bias=_logit_bias(body),
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        structured_outputs=structured,
        **same,
    )


def priority_of(body: Mapping[str, Any]) -> int:
    """Return a request's priority as ours has it, the highest first; vLLM's is the lowest first."""
    return -(integer(body, "priority", -MAX_PRIORITY, MAX_PRIORITY) or 0)


def _top_k(value: Any) -> Any:
    return None if value == -1 else value


def _stops(value: Any) -> Any:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else value


def _logit_bias(body: Mapping[str, Any]) -> dict[Any, Any]:
    biases = {}
    for name, bias in mapping(body, "logit_bias").items():
        if not (name.isascii() and name.isdigit() and len(name) <= 10):
            raise invalid("logit_bias", f"{name[:20]!r} is no token id")
        if isinstance(bias, bool) or not isinstance(bias, int | float):
            raise wrong_type(f"logit_bias.{name}", "a number", bias)
        biases[int(name)] = bias
    return biases
