"""What the last stage chose in a step, as one message whose size both sides know from the plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker_svc.core.needs import StepNeeds
from worker_svc.core.residents import StepPlan
from worker_svc.kernels.choice import Choice, Logprobs
from worker_svc.step.scores import num_likeliest, num_scored

MAX_WORD = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Choices:
    """The form of a step's message: its number, how long it took in the last stage, S tokens.

    And what belongs to the tokens: ``num_logprobs`` is K of ``Logprobs``; -1: there are none. Then
    those of ``num_scored`` tokens of prompts, with ``num_likeliest`` for K. All are 32-bit words.
    """

    step: int
    num_sampled: int
    num_logprobs: int
    num_scored: int = 0
    num_likeliest: int = -1

    @classmethod
    def of(cls, plan: StepPlan, vocab_size: int) -> Choices:
        """Of the rows that a plan samples, and of those that it scores."""
        sampled = plan.sampled
        num_logprobs = StepNeeds.of([row.resident for row in sampled]).num_logprobs
        return cls(
            plan.command.step,
            len(sampled),
            min(num_logprobs, vocab_size),
            num_scored(plan.scored),
            num_likeliest(plan.scored, vocab_size),
        )

    @property
    def sizes(self) -> list[int]:
        """Words of each part."""
        return [1, 1, self.num_sampled, self.num_sampled, *self._sizes_of(0), *self._sizes_of(1)]

    def _sizes_of(self, which: int) -> list[int]:
        num, most = self._shapes[which]
        return [num, num * most, num * most] if most >= 0 else []

    @property
    def _shapes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Of the tokens' log-probabilities, and of the prompts'."""
        return (self.num_sampled, self.num_logprobs), (self.num_scored, self.num_likeliest)

    def empty(self) -> Tensor:
        """Memory for such a message."""
        return torch.empty(sum(self.sizes), dtype=torch.int32)

    def pack(self, choice: Choice, duration_us: int) -> Tensor:
        """The message; ``choice`` is in the host's memory."""
        parts: Sequence[Tensor] = (choice.token_ids, choice.is_finite)
        for logprobs in (choice.logprobs, choice.scores):
            if logprobs is not None:
                chosen, top_ids, top = logprobs
                parts = (*parts, _words(chosen), top_ids, _words(top))
        head = torch.tensor([self._number, min(duration_us, MAX_WORD)], dtype=torch.int32)
        message = torch.cat([head, *(part.reshape(-1).to(torch.int32) for part in parts)])
        assert message.numel() == sum(self.sizes)
        return message

    def unpack(self, message: Tensor) -> tuple[Choice, int]:
        """The choice, and the microseconds. Raises RuntimeError where it is another step's."""
        number, duration_us, token_ids, is_finite, *more = torch.split(message, self.sizes)
        if int(number) != self._number:
            raise RuntimeError(f"step {self.step} got the choices of another: {int(number)}")
        found = [
            _logprobs(more.pop(0), more.pop(0), more.pop(0).view(shape)) if shape[1] >= 0 else None
            for shape in self._shapes
        ]
        return Choice(token_ids, is_finite, *found), int(duration_us)

    @property
    def _number(self) -> int:
        return self.step & MAX_WORD


def _logprobs(chosen: Tensor, top_ids: Tensor, top: Tensor) -> Logprobs:
    return Logprobs(chosen.view(torch.float32), top_ids.view(top.shape), top.view(torch.float32))


def _words(floats: Tensor) -> Tensor:
    return floats.contiguous().view(torch.int32)
