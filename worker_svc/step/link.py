"""What a stage has to do with the others: what it waits for, and what it hands on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor

from worker_svc.core.residents import StepPlan
from worker_svc.core.step_runner import Launched
from worker_svc.kernels.choice import Choice, SampledRows
from worker_svc.model.model import Model
from worker_svc.step.pending import Pending


class Link(Protocol):
    """A stage's neighbours, as an executor knows them. Only the thread that launches calls it."""

    def catch_up(self, plan: StepPlan) -> Iterable[tuple[Choice, SampledRows]]:
        """Choices that other stages made in steps before: the rows' tables are to have them.

        Waits for those that the plan's rows go on from; each is given once, in order.
        """

    def receive(self, num_positions: int) -> Tensor | None:
        """``[num_positions, H]`` of the stage before, once they are there; None in the first."""

    def pass_on(self, plan: StepPlan, hidden: Tensor, pending: Pending) -> Launched:
        """Give others what came of a step: hidden states ``[T, H]``, in the last stage tokens."""


class Alone:
    """No neighbours. A stage that has none takes nothing but zeros: it is being measured."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def catch_up(self, _plan: StepPlan, /) -> Iterable[tuple[Choice, SampledRows]]:
        return ()

    def receive(self, num_positions: int) -> Tensor | None:
        model = self._model
        if model.part.is_first:
            return None
        shape = (num_positions, model.hidden_size)
        return torch.zeros(shape, dtype=model.dtype, device=model.device)

    def pass_on(self, _plan: StepPlan, _hidden: Tensor, pending: Pending, /) -> Launched:
        return pending
