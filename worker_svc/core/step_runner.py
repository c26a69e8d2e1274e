"""What an engine drives: commands become plans, what the device chose becomes reports."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

from stepserve.protocol.step import ResidentSequence, StepCommand, StepReport
from worker_svc.core.limits import Limits
from worker_svc.core.outcome import Chosen, absorb
from worker_svc.core.residents import Residents, StepPlan


class Launched(Protocol):
    """A step that is computed, here or elsewhere."""

    def is_done(self) -> bool:
        """Whether ``wait`` would not wait."""

    def wait(self) -> Chosen:
        """Wait for what came of it, in any thread."""


class StepRunner(ABC):
    """Plans and absorbs steps, in the order of the commands; a subclass has the device.

    ``plan`` and ``absorb`` belong to one thread, ``launch`` to another, and what is ``Launched``
    may be waited for in a third. A step may be planned and launched before the one before it is
    absorbed. What it is commanded twice, it does twice; the ledger before it sees to that.
    """

    def __init__(self, limits: Limits) -> None:
        self._residents = Residents(limits)

    @abstractmethod
    def launch(self, plan: StepPlan) -> Launched:
        """Begin to compute a planned step."""

    def residents(self) -> tuple[ResidentSequence, ...]:
        """Every sequence that lives here; every planned step is absorbed."""
        return self._residents.describe()

    @property
    def num_residents(self) -> int:
        """How many sequences live here."""
        return len(self._residents)

    def departed(self) -> tuple[ResidentSequence, ...]:
        """Those that left in a step which is not known to be committed."""
        return self._residents.departed()

    @property
    def last_sequence_id(self) -> int:
        """The highest sequence id that was ever admitted."""
        return self._residents.last_id

    def reset(self) -> None:
        """Let go of every sequence; every planned step is absorbed."""
        self._residents.clear()

    def plan(self, command: StepCommand) -> StepPlan:
        """Check a command and apply it. Raises StepRefused; then nothing was changed."""
        return self._residents.plan(command)

    def absorb(self, plan: StepPlan, chosen: Chosen) -> StepReport:
        """Take what the device decided; the step's report."""
        return absorb(self._residents, plan, chosen)
