"""A worker's half of a step: its residents and its executor, a command in, a report out."""

from __future__ import annotations

from kvstore.cache import KVCache
from stepserve.protocol.step import ResidentSequence, StepCommand, StepReport
from worker_svc.core.limits import Limits
from worker_svc.core.outcome import Chosen, absorb
from worker_svc.core.residents import Residents, StepPlan
from worker_svc.model.model import Model
from worker_svc.step.executor import Executor
from worker_svc.step.layout import Layout
from worker_svc.step.link import Link
from worker_svc.step.pending import Launched
from worker_svc.step.synthetic import warm_up_steps


class Runner:
    """Plans, launches and absorbs steps, each in the order of the commands.

    ``plan`` and ``absorb`` belong to one thread, ``launch`` to another, and what is ``Launched``
    may be waited for in a third. A step may be planned and launched before the one before it is
    absorbed. What it is commanded twice, it does twice; the ledger before it sees to that.
    """

    def __init__(
        self,
        model: Model,
        cache: KVCache,
        limits: Limits,
        layout: Layout,
        link: Link | None = None,
    ) -> None:
        self.executor = Executor(model, cache, limits, layout, link)
        self._limits = limits
        self._residents = Residents(limits)

    def residents(self) -> tuple[ResidentSequence, ...]:
        """Every sequence that lives here; every planned step is absorbed."""
        return self._residents.describe()

    def reset(self) -> None:
        """Let go of every sequence; every planned step is absorbed."""
        self._residents.clear()

    def plan(self, command: StepCommand) -> StepPlan:
        """Check a command and apply it. Raises StepRefused; then nothing was changed."""
        return self._residents.plan(command)

    def launch(self, plan: StepPlan) -> Launched:
        """Begin to compute a planned step."""
        return self.executor.launch(plan)

    def absorb(self, plan: StepPlan, chosen: Chosen) -> StepReport:
        """Take what the device decided; the step's report."""
        return absorb(self._residents, plan, chosen)

    def execute(self, command: StepCommand) -> StepReport:
        """All of a step in one thread. Raises StepRefused; then nothing was changed."""
        plan = self.plan(command)
        return self.absorb(plan, self.launch(plan).wait())

    def warm_up(self) -> None:
        """Execute steps of every kind, so that no job waits for a compiler or finds it broken."""
        for command in warm_up_steps(self._limits):
            self.execute(command)
            self.reset()
