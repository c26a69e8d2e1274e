"""``stepserve scheduler`` and ``stepserve worker``: the services themselves."""

from __future__ import annotations

from scheduler_svc.settings import SchedulerSettings
from stepserve.local.processes import Service
from stepserve.process.command_line import flag
from stepserve.protocol.errors import StepserveError
from worker_svc.settings import WorkerSettings


class Scheduler(SchedulerSettings):
    __doc__ = SchedulerSettings.__doc__

    def run(self) -> int:
        """Serve until SIGTERM; return the exit status."""
        from scheduler_svc.server import run

        return run(self)


class Worker(WorkerSettings):
    __doc__ = WorkerSettings.__doc__

    def run(self) -> int:
        """Serve until SIGTERM, starting the worker again when it crashes; return the exit status.

        One that shares a model with other machines ends with them: who runs those starts it again.
        """
        if self._has_other_machines:
            from worker_svc.__main__ import run

            return run(self)
        from stepserve.local.guarded import run_guarded

        values = self.model_dump().items()
        flags = [flag(name, value) for name, value in values if value not in (None, "")]
        return run_guarded(Service("worker", ["worker_svc", *flags]))

    @property
    def _has_other_machines(self) -> bool:
        from worker_svc.group.place import machine_of

        try:
            return bool(machine_of(self).host)
        except StepserveError:
            return True  # the worker says what is wrong
