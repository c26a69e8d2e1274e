"""What a stage tells the others of a step is its own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from stepserve.protocol.step import StepCommand
from tests.worker_svc.group.threads import Post
from worker_svc.core.residents import StepPlan
from worker_svc.group.choices import Choices
from worker_svc.group.link import GroupLink
from worker_svc.group.place import Place
from worker_svc.step.pending import Pending

COMPUTED_US, WITH_WAIT_US = 7, 1_000_000


class FixedTimer:
    def __init__(self, duration_us: int) -> None:
        self._duration_us = duration_us

    def stop(self) -> None:
        pass

    def is_done(self) -> bool:
        return True

    def wait(self) -> int:
        return self._duration_us


def test_the_last_stage_does_not_tell_its_wait_as_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deadline, and who would miss one, are judged by the sum of what the stages tell."""
    monkeypatch.setattr(
        "worker_svc.group.link.start_timer", lambda _device: FixedTimer(COMPUTED_US)
    )
    model: Any = SimpleNamespace(
        device=torch.device("cpu"), dtype=torch.float32, hidden_size=4, vocab_size=9
    )
    post = Post()
    place = Place(1, 2, 1, 1, 2, "", 0)
    link = GroupLink(place, post.wires(1), model)
    post.wires(0).states.send(torch.ones(3, 4), 1)
    plan = StepPlan(StepCommand(epoch=1, incarnation="me", step=5))
    arrived = cast(torch.Tensor, link.receive(3))
    link.pass_on(plan, arrived, Pending(FixedTimer(WITH_WAIT_US)))
    form = Choices.of(plan, model.vocab_size)
    message = form.empty()
    post.wires(0).choices.receive(message, 1)
    assert form.unpack(message)[1] == COMPUTED_US
