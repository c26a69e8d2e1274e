"""What the last stage chose in a step, as one message whose size both sides know from the plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker_svc.core.needs import StepNeeds
from worker_svc.core.residents import StepPlan
from worker_svc.kernels.choice import Choice, Logprobs

MAX_WORD = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Choices:
    """The form of a step's message: its number, how long it took in the last stage, S tokens.

    And what belongs to the tokens: ``num_logprobs`` is K of ``Logprobs``; -1: there are none.
    All are 32-bit words.
    """

    step: int
    num_sampled: int
    num_logprobs: int

    @classmethod
    def of(cls, plan: StepPlan, vocab_size: int) -> Choices:
        """Of the rows that a plan samples."""
        sampled = plan.sampled
        num_logprobs = StepNeeds.of([row.resident for row in sampled]).num_logprobs
        return cls(plan.command.step, len(sampled), min(num_logprobs, vocab_size))

    @property
    def sizes(self) -> list[int]:
        """Words of each part."""
        num, top = self.num_sampled, self.num_sampled * self.num_logprobs
        return [1, 1, num, num, *([num, top, top] if self.num_logprobs >= 0 else [])]

    def empty(self) -> Tensor:
        """Memory for such a message."""
        return torch.empty(sum(self.sizes), dtype=torch.int32)

    def pack(self, choice: Choice, duration_us: int) -> Tensor:
        """The message; ``choice`` is in the host's memory."""
        parts: Sequence[Tensor] = (choice.token_ids, choice.is_finite)
        if choice.logprobs is not None:
            chosen, top_ids, top = choice.logprobs
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
        if not more:
            return Choice(token_ids, is_finite), int(duration_us)
        chosen, top_ids, top = more
        shape = (self.num_sampled, self.num_logprobs)
        floats = chosen.view(torch.float32), top.view(torch.float32)
        logprobs = Logprobs(floats[0], top_ids.view(shape), floats[1].view(shape))
        return Choice(token_ids, is_finite, logprobs), int(duration_us)

    @property
    def _number(self) -> int:
        return self.step & MAX_WORD


def _words(floats: Tensor) -> Tensor:
    return floats.contiguous().view(torch.int32)
