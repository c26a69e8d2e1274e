"""A worker that some jobs crash: ``python -m tests.fault.poison FLAGS``, like ``worker_svc``.

A job is poison where its prompt has ``MARK``. It crashes the worker in the step that would choose
its token at ``OFFSET``, every time: by a signal of the process to itself (``POISON_SIGNAL`` in the
environment, SIGSEGV by default), as a fault in native code does.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from stepserve.protocol.step import StepCommand
from worker_svc.core.residents import StepPlan
from worker_svc.runner import Runner
from worker_svc.step.pending import Launched

MARK, OFFSET = 200, 3
SIGNAL = "POISON_SIGNAL"


@dataclass
class Poison:
    """Takes the places of a ``Runner``'s methods; ``crash`` is called in a step with poison."""

    crash: Callable[[], None]
    plan: Callable[[Runner, StepCommand], StepPlan] = Runner.plan
    launch: Callable[[Runner, StepPlan], Launched] = Runner.launch
    # Steps that each still bears, by its sequence at its runner.
    left: dict[tuple[Runner, int], int] = field(default_factory=dict)

    def plan_noting(self, runner: Runner, command: StepCommand) -> StepPlan:
        """Plan, and take note of poison that comes."""
        for admission in command.admissions:
            if MARK in admission.token_ids[: admission.num_prompt_tokens]:
                num_output = len(admission.token_ids) - admission.num_prompt_tokens
                self.left[runner, admission.sequence_id] = max(0, OFFSET - num_output)
        return self.plan(runner, command)

    def launch_crashing(self, runner: Runner, plan: StepPlan) -> Launched:
        """Launch, unless there is poison in it whose time has come."""
        for sequence_id in plan.command.row_sequence_ids:
            left = self.left.get((runner, sequence_id))
            if left == 0:
                self.crash()
            if left is not None:
                self.left[runner, sequence_id] = left - 1
        return self.launch(runner, plan)

    def install(self, setattr_: Callable[[type[Runner], str, object], None] = setattr) -> None:
        """Let runners have it from now on."""

        def plan(runner: Runner, command: StepCommand) -> StepPlan:
            return self.plan_noting(runner, command)

        def launch(runner: Runner, planned: StepPlan) -> Launched:
            return self.launch_crashing(runner, planned)

        setattr_(Runner, "plan", plan)
        setattr_(Runner, "launch", launch)


def _crash() -> None:
    os.kill(os.getpid(), int(os.environ.get(SIGNAL, signal.SIGSEGV)))


def main() -> int:
    Poison(_crash).install()
    from worker_svc.__main__ import main as serve

    return serve()


if __name__ == "__main__":
    sys.exit(main())
