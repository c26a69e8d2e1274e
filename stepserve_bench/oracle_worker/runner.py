"""What an engine drives where there is no model: everything but the device is a worker's own."""

from __future__ import annotations

import time
from dataclasses import dataclass

from stepserve.protocol.step import StepCommand, StepReport
from stepserve_bench.oracle_worker.device import OracleDevice
from stepserve_bench.oracle_worker.usage import Usage
from worker_svc.core.limits import Limits
from worker_svc.core.outcome import Chosen
from worker_svc.core.residents import StepPlan
from worker_svc.core.step_runner import StepRunner


@dataclass(frozen=True, slots=True)
class Sleeping:
    """A step that is done at ``end_s`` of the monotonic clock."""

    chosen: Chosen
    end_s: float

    def is_done(self) -> bool:
        return time.monotonic() >= self.end_s

    def wait(self) -> Chosen:
        time.sleep(max(0.0, self.end_s - time.monotonic()))
        return self.chosen


class StepsOutOfOrder(Exception):
    """A step reached the device that must not: the worker can't be trusted any more."""


class OracleRunner(StepRunner):
    """Runs steps that take ``step_s`` seconds each.

    It trusts nobody before it: a step that comes twice, too early, or under a lower epoch than
    one before it raises StepsOutOfOrder, which breaks the worker.
    """

    def __init__(self, limits: Limits, step_s: float) -> None:
        super().__init__(limits)
        self.usage = Usage(limits.max_batch_size)
        self._device = OracleDevice(limits)
        self._step_s = step_s
        self._free_s = 0.0
        self._epoch, self._step = 0, 0

    def plan(self, command: StepCommand) -> StepPlan:
        self.usage.commanded(command.step)
        return super().plan(command)

    def launch(self, plan: StepPlan) -> Sleeping:
        """The device takes the step when it has done those before."""
        self._check(plan.command)
        begin_s = end_s = max(self._free_s, time.monotonic())
        tokens = self._device.compute(plan)
        if plan.rows:
            end_s = self._free_s = begin_s + self._step_s
            self.usage.worked(begin_s, end_s, len(plan.rows))
        chosen = Chosen(
            token_ids=tokens,
            is_finite=[True] * len(tokens),
            duration_us=int((end_s - begin_s) * 1e6),
            num_positions=sum(row.num_tokens for row in plan.rows),
            num_context=sum(row.start + row.num_tokens for row in plan.rows),
        )
        return Sleeping(chosen, end_s)

    def absorb(self, plan: StepPlan, chosen: Chosen) -> StepReport:
        report = super().absorb(plan, chosen)
        self.usage.reported(report.step)
        return report

    def _check(self, command: StepCommand) -> None:
        if command.step != self._step + 1 or command.epoch < self._epoch:
            raise StepsOutOfOrder(
                f"step {command.step} of epoch {command.epoch} after step {self._step} "
                f"of epoch {self._epoch}"
            )
        self._step, self._epoch = command.step, command.epoch
