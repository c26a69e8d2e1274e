"""``stepserve scheduler`` and ``stepserve worker``: the services themselves."""

from __future__ import annotations

from scheduler_svc.settings import SchedulerSettings
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
        """Serve until SIGTERM; return the exit status."""
        from worker_svc.__main__ import run

        return run(self)
