"""Rank 0's runner, which the others follow: whatever it does is told before anything follows it."""

from __future__ import annotations

from kvstore.cache import KVCache
from stepserve.protocol.step import StepCommand, StepReport
from worker_svc.core.limits import Limits
from worker_svc.core.outcome import Chosen
from worker_svc.core.residents import StepPlan
from worker_svc.group.turns import Turn, TurnWriter, encode
from worker_svc.model.model import Model
from worker_svc.runner import Runner
from worker_svc.step.layout import Layout
from worker_svc.step.link import Link

# The others hear of the end before they see that we are gone.
END_TIMEOUT_S = 1.0


class Leader(Runner):
    """A runner of the first stage whose every turn is told to the group."""

    def __init__(
        self,
        model: Model,
        cache: KVCache,
        limits: Limits,
        layout: Layout,
        link: Link,
        turns: TurnWriter,
    ) -> None:
        super().__init__(model, cache, limits, layout, link)
        self._turns = turns

    def reset(self) -> None:
        super().reset()
        self._turns.tell(Turn.RESET)

    def plan(self, command: StepCommand) -> StepPlan:
        plan = super().plan(command)
        self._turns.tell(Turn.STEP, encode(command))
        return plan

    def absorb(self, plan: StepPlan, chosen: Chosen) -> StepReport:
        report = super().absorb(plan, chosen)
        self._turns.tell(Turn.SETTLE)
        return report

    def warm_up(self) -> None:
        super().warm_up()
        self._turns.tell(Turn.WARM)

    def end(self) -> None:
        """Nothing more is done; wait until the others have been told."""
        self._turns.tell(Turn.END)
        self._turns.wait_ended(END_TIMEOUT_S)
