"""Which stages of the sampler a sequence, and a step, goes through."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from stepserve.protocol.sampling import Sampling

# Below it a temperature is zero: the likeliest token, without dividing by next to nothing.
MIN_TEMPERATURE = 1e-5


@dataclass(frozen=True, slots=True)
class Needs:
    """Read off the sampling values once, when a sequence is admitted.

    ``guide``: which tokens may be chosen is for the host to say, in some step at least.
    """

    penalties: bool
    bias: bool
    draw: bool
    cut: bool
    logprobs: bool
    is_plain: bool
    guide: bool = False

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
        logprobs = sampling.logprobs >= 0
        return cls(
            penalties=penalties,
            bias=bias,
            draw=draw,
            cut=draw and (sampling.top_k > 0 or sampling.top_p < 1 or sampling.min_p > 0),
            logprobs=logprobs,
            is_plain=not (penalties or bias or draw or logprobs),
            guide=sampling.structured_outputs is not None or sampling.min_tokens > 0,
        )


class Sampled(Protocol):
    """A sequence, as far as it says what choosing its token needs."""

    @property
    def needs(self) -> Needs: ...
    @property
    def sampling(self) -> Sampling: ...


@dataclass(frozen=True, slots=True)
class StepNeeds:
    """A row's token is the same where more is said to be needed than its row needs.

    Attributes:
        penalties, bias, draw, cut: whether a row needs the stage.
        num_logprobs: the most that a row asks for; -1: none does.
    """

    penalties: bool = False
    bias: bool = False
    draw: bool = False
    cut: bool = False
    num_logprobs: int = -1

    @classmethod
    def of(cls, residents: Iterable[Sampled]) -> StepNeeds:
        """Of the sequences that get a token."""
        penalties = bias = draw = cut = False
        num_logprobs = -1
        for resident in residents:
            needs = resident.needs
            if needs.is_plain:
                continue
            penalties |= needs.penalties
            bias |= needs.bias
            draw |= needs.draw
            cut |= needs.cut
            num_logprobs = max(num_logprobs, resident.sampling.logprobs)
        return cls(penalties, bias, draw, cut, num_logprobs)

    def covers(self, other: StepNeeds) -> bool:
        """Whether nothing more is needed by ``other``."""
        return (
            self.penalties >= other.penalties
            and self.bias >= other.bias
            and self.draw >= other.draw
            and self.cut >= other.cut
            and self.num_logprobs >= other.num_logprobs
        )
