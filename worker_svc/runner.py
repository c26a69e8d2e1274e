"""A worker's half of a step: its residents and its executor, a command in, a report out."""

from __future__ import annotations

from kvstore.cache import KVCache
from stepserve.protocol.step import StepCommand, StepReport
from worker_svc.core.limits import Limits
from worker_svc.core.residents import StepPlan
from worker_svc.core.step_runner import Launched, StepRunner
from worker_svc.model.model import Model
from worker_svc.step.executor import Executor
from worker_svc.step.layout import Layout
from worker_svc.step.link import Link
from worker_svc.step.synthetic import warm_up_steps


class Runner(StepRunner):
    """Runs steps on a device that has a model and a cache."""

    def __init__(
        self,
        model: Model,
        cache: KVCache,
        limits: Limits,
        layout: Layout,
        link: Link | None = None,
    ) -> None:
        super().__init__(limits)
        self.executor = Executor(model, cache, limits, layout, link)
        self._limits = limits

    def launch(self, plan: StepPlan) -> Launched:
        """Begin to compute a planned step."""
        return self.executor.launch(plan)

    def execute(self, command: StepCommand) -> StepReport:
        """All of a step in one thread. Raises StepRefused; then nothing was changed."""
        plan = self.plan(command)
        return self.absorb(plan, self.launch(plan).wait())

    def warm_up(self) -> None:
        """Execute steps of every kind, so that no job waits for a compiler or finds it broken."""
        for command in warm_up_steps(self._limits):
            self.execute(command)
            self.reset()
