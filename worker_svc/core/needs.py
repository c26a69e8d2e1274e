"""Which stages of the sampler a sequence goes through."""

from __future__ import annotations

from dataclasses import dataclass

from protos.step import Sampling

# Below it a temperature is zero: the likeliest token, without dividing by next to nothing.
MIN_TEMPERATURE = 1e-5


@dataclass(frozen=True, slots=True)
class Needs:
    """Read off the sampling values once, when a sequence is admitted."""

    penalties: bool
    bias: bool
    draw: bool
    cut: bool
    logprobs: bool
    is_plain: bool

    @classmethod
    def of(cls, sampling: Sampling) -> Needs:
        """``is_plain`` where the likeliest token is all that is wanted."""
        penalties = (
            sampling.presence_penalty != 0
            or sampling.frequency_penalty != 0
            or sampling.repetition_penalty != 1
        )
        bias = bool(sampling.logit_bias)
        draw = sampling.temperature >= MIN_TEMPERATURE
        logprobs = sampling.num_logprobs >= 0
        return cls(
            penalties=penalties,
            bias=bias,
            draw=draw,
            cut=draw and (sampling.top_k > 0 or sampling.top_p < 1 or sampling.min_p > 0),
            logprobs=logprobs,
            is_plain=not (penalties or bias or draw or logprobs),
        )
