"""``stepserve workers``: what schedulers know of workers."""

from __future__ import annotations

import json
import sys
import time

from pydantic import Field

from stepserve.client.json_forms import worker_json
from stepserve.commands.connection import Connection
from stepserve.commands.tables import print_rows
from stepserve.protocol.worker_status import WorkerStatus

# Schedulers tell every two seconds.
SILENT_S = 10.0
COLUMNS = (
    "worker", "model", "state", "device", "ranks", "context", "free blocks", "running",
    "step p50/p99", "driver", "since", "seen", "note",
)  # fmt: skip
_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))


class Workers(Connection):
    """List the workers that schedulers know of, of all models: what each can hold, who drives it.

    A worker is "driven" by a scheduler; "free" where it answers and none drives it (the note says
    why, if a scheduler knows: it serves a model that none of them does, or speaks another
    version of the protocol); "silent" once nobody has heard of it for 10 s, and forgotten
    after a minute. "ranks": pipeline stages x tensor-parallel ranks. "free blocks": those that no
    sequence holds, of all, and how many tokens one holds. "running": sequences in its batch, of
    its places, and those that wait for a place there. "step": how long half of the last 512
    steps took at most, and 99 in 100. With --json one object for each worker, with all that is
    known; times are seconds, by Redis's clock.
    """

    served_model: str = Field("", description="only workers of this model")

    def run(self) -> int:
        """Print a table, or with --json a line for each; return 0."""
        with self.client() as client:
            workers = client.workers(self.served_model)
        if self.as_json:
            for worker in workers:
                print(json.dumps(worker_json(worker)))
            return 0
        if not workers:
            of = f" of {self.served_model}" if self.served_model else ""
            print(f"no worker{of} answers any scheduler", file=sys.stderr)
            return 0
        now_s = time.time()
        print_rows(COLUMNS, (cells(worker, now_s) for worker in workers))
        return 0


def cells(worker: WorkerStatus, now_s: float) -> list[str]:
    """Return a worker's row, as of ``now_s`` seconds since the epoch."""
    is_driven = bool(worker.driver)
    blocks = f"{worker.num_blocks} x {worker.block_size}"
    running = str(worker.max_batch_size)
    if is_driven:
        waiting = f" +{worker.num_waiting}" if worker.num_waiting else ""
        blocks, running = (
            f"{worker.num_free_blocks}/{blocks}",
            f"{worker.num_running}/{running}{waiting}",
        )
    return [
        worker.worker_id,
        worker.model,
        state_of(worker, now_s),
        f"{worker.device} {worker.dtype}".strip(),
        f"{worker.num_stages}x{worker.tensor_parallel}",
        str(worker.max_context),
        blocks,
        running,
        _steps(worker),
        worker.driver,
        ago(now_s - worker.driven_since_s) if is_driven else "",
        ago(now_s - worker.seen_s),
        worker.note,
    ]


def state_of(worker: WorkerStatus, now_s: float) -> str:
    """Return "driven", "free" or "silent"."""
    if now_s - worker.seen_s > SILENT_S:
        return "silent"
    return "driven" if worker.driver else "free"


def ago(duration_s: float) -> str:
    """Return how long ago that is, in the largest unit that it fills."""
    for size_s, unit in _UNITS:
        if duration_s >= size_s:
            return f"{int(duration_s / size_s)} {unit}"
    return "now"


def _steps(worker: WorkerStatus) -> str:
    if worker.step_p50_s is None or worker.step_p99_s is None:
        return ""
    return f"{1e3 * worker.step_p50_s:.3g}/{1e3 * worker.step_p99_s:.3g} ms"
