"""One service and who watches it, as ``stepserve worker`` runs: a container's first process.

The watcher outlives a crash. It says how the worker died, where an orchestrator would only start
another, and starts it again at once, where that would wait longer and longer.
"""

from __future__ import annotations

from stepserve.local.processes import Service, ServiceFailed, Stopped, Supervisor
from stepserve.process.stopping import stop_signals


def run_guarded(service: Service) -> int:
    """Run a service until SIGTERM or SIGINT, whatever it crashes of; return the exit status.

    One that ends before it was ever ready is not started again: its status is ours. The line that
    says that it serves is printed as it is, once.
    """
    with stop_signals() as stop, Supervisor(stop) as supervisor:
        child = supervisor.start(service)
        try:
            child.wait_ready()
        except Stopped:
            return 0
        except ServiceFailed:
            status = child.process.returncode
            return status if status >= 0 else 128 - status
        print(child.ready_line, flush=True)
        supervisor.watch(bool)
        return supervisor.status()
