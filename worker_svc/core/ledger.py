"""Which steps were executed, and who may command the next: the exactly-once half of a worker.

Pure: no IO, no clock. A step is named by (incarnation, epoch, step); step numbers go on
through an incarnation, whatever the epoch.
"""

from __future__ import annotations

from stepserve.protocol.errors import StepRefused
from stepserve.protocol.step import PROTOCOL_VERSION, Hello, StepCommand, StepReport


class Ledger:
    """The highest epoch seen, the last step that was begun, and the reports not yet committed."""

    def __init__(self, incarnation: str, max_kept_reports: int) -> None:
        self.incarnation = incarnation
        self.epoch = 0
        self.last_step = 0
        self._max_kept_reports = max_kept_reports
        # None while the step is computed.
        self._reports: dict[int, StepReport | None] = {}

    def greet(self, hello: Hello) -> None:
        """Take the Hello's epoch as the one that commands. Raise StepRefused where it may not."""
        if hello.protocol_version != PROTOCOL_VERSION:
            raise StepRefused(
                f"protocol version {hello.protocol_version}, this worker speaks {PROTOCOL_VERSION}"
            )
        if hello.incarnation:
            self._check_incarnation(hello.incarnation)
        if hello.epoch < self.epoch:
            raise StepRefused(f"stale epoch {hello.epoch}, the worker has seen {self.epoch}")
        self.epoch = hello.epoch

    def kept_report(self, command: StepCommand) -> StepReport | None:
        """Return the report of a step executed before; None where ``command`` is the next to do.

        Changes nothing. Raises StepRefused for a stale epoch, another incarnation, a gap, a step
        whose report is forgotten or not there yet, and when no more reports can be kept once
        those that ``command.committed_step`` covers are forgotten.
        """
        self.check_name(command)
        if command.committed_step > self._last_executed:
            raise StepRefused(f"committed step {command.committed_step} was never executed")
        if command.step > self.last_step + 1:
            raise StepRefused(f"gap: step {command.step}, the next is {self.last_step + 1}")
        if command.step <= self.last_step:
            return self._again(command)
        self._check_room(command)
        return None

    def check_name(self, command: StepCommand) -> None:
        """Raise StepRefused where ``command`` is another incarnation's or epoch's."""
        self._check_incarnation(command.incarnation)
        if command.epoch != self.epoch:
            kind = "stale" if command.epoch < self.epoch else "unannounced"
            raise StepRefused(f"{kind} epoch {command.epoch}, the last Hello's is {self.epoch}")

    @property
    def _last_executed(self) -> int:
        computing = (step for step, report in self._reports.items() if report is None)
        return min(computing, default=self.last_step + 1) - 1

    def begin(self, step: int) -> None:
        """The next step is planned: it is never planned again."""
        assert step == self.last_step + 1
        self.last_step = step
        self._reports[step] = None

    def record(self, report: StepReport) -> None:
        """Keep the report of a step that was begun and is executed now."""
        assert self._reports[report.step] is None
        self._reports[report.step] = report

    def forget(self, committed_step: int) -> None:
        """Reports up to ``committed_step`` are never asked for again."""
        for step in [step for step in self._reports if step <= committed_step]:
            del self._reports[step]

    def kept_reports(self) -> tuple[StepReport, ...]:
        """Every report that is kept, in the order of the steps; they end with the last step."""
        return tuple(report for report in self._reports.values() if report is not None)

    def reset(self) -> None:
        """Forget every report; step numbers go on. Nothing is being computed."""
        self._reports.clear()

    def _check_incarnation(self, incarnation: str) -> None:
        if incarnation != self.incarnation:
            raise StepRefused(f"incarnation {incarnation!r} is gone, this is {self.incarnation!r}")

    def _again(self, command: StepCommand) -> StepReport:
        report = self._reports.get(command.step)
        if report is None or command.step <= command.committed_step:
            raise StepRefused(f"step {command.step} was executed and its report is forgotten")
        return report

    def _check_room(self, command: StepCommand) -> None:
        kept = sum(step > command.committed_step for step in self._reports)
        if kept >= self._max_kept_reports:
            raise StepRefused(f"{kept} reports are kept already: commit some first")
