"""A service of real processes that can be stopped, killed and started one by one."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from scheduler_svc.queue import JobQueue
from stepserve.local.processes import Child, Service, Supervisor
from tests.checkpoints import add_tokenizer, make_checkpoint

MAX_CONTEXT = 16_384


def make_long_checkpoint(directory: Path) -> Path:
    """A small checkpoint whose outputs can go on for longer than a fault does."""
    checkpoint = add_tokenizer(make_checkpoint(directory, "llama"), 257)
    path = checkpoint / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "max_position_embeddings": MAX_CONTEXT}))
    return checkpoint


@dataclass
class FaultyService:
    """Workers by address, schedulers by what their leases are held by: the process id's name."""

    checkpoint: Path
    redis_url: str
    supervisor: Supervisor
    model: str = field(default_factory=lambda: f"fault-{uuid4().hex[:8]}")
    workers: dict[str, Child] = field(default_factory=dict)
    schedulers: list[Child] = field(default_factory=list)
    record_dir: Path | None = None

    def add_workers(self, count: int) -> None:
        """Start workers. From the main thread: children end with the thread that started them."""
        flags = [
            f"--model={self.checkpoint}",
            f"--model-name={self.model}",
            "--port=0",
            "--device=cpu",
            "--dtype=float64",
            "--num-threads=1",
            "--num-blocks=4096",
        ]
        service = Service("worker", ["worker_svc", *flags])
        for child in [self.supervisor.start(service) for _ in range(count)]:
            self.workers[child.wait_ready()["worker"]] = child

    def add_schedulers(self, count: int) -> None:
        """Start schedulers that know the workers there are; from the main thread as well."""
        flags = [
            f"--model={self.checkpoint}",
            f"--model-name={self.model}",
            "--port=0",
            f"--workers={','.join(self.workers)}",
            *([f"--record-dir={self.record_dir}"] if self.record_dir else []),
        ]
        service = Service(
            "scheduler", ["scheduler_svc", *flags], {"STEPSERVE_REDIS_URL": self.redis_url}
        )
        children = [self.supervisor.start(service) for _ in range(count)]
        for child in children:
            child.wait_ready()
        self.schedulers += children

    def revive(self) -> None:
        """Start what was killed again, where it was; from the main thread."""
        children = [*self.workers.values(), *self.schedulers]
        dead = [child for child in children if child.process.poll() is not None]
        for child in dead:
            child.restart()
        for child in dead:
            child.wait_ready()

    def queue(self) -> JobQueue:
        """The service's queue, to look at."""
        return JobQueue(self.redis_url, self.model)

    def holder_of(self, holder: str) -> Child:
        """The scheduler that a lease names as its holder."""
        return next(c for c in self.schedulers if f"-{c.process.pid}-" in holder)

    async def num_driven(self, queue: JobQueue) -> list[int]:
        """How many workers each scheduler drives, the fewest first."""
        held = Counter(record.holder for record in await queue.workers())
        return sorted([*held.values(), *[0] * (len(self.schedulers) - len(held))])


@contextmanager
def faulty_service(checkpoint: Path, redis_url: str) -> Iterator[FaultyService]:
    """Yield a service without processes; stop all that were added."""
    with Supervisor(threading.Event()) as supervisor:
        yield FaultyService(checkpoint, redis_url, supervisor)
