"""Which stages of the sampler a step goes through: those that any of its rows needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from protos.step import Sampling
from worker_svc.needs import Needs


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
            num_logprobs = max(num_logprobs, resident.sampling.num_logprobs)
        return cls(penalties, bias, draw, cut, num_logprobs)
