"""A whole service in one event loop: real Redis, real gRPC, a real worker, a real scheduler.

The processes of production differ only in being apart; ``test_processes`` runs those.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from scheduler_svc.queue import JobQueue
from scheduler_svc.server import scheduler
from scheduler_svc.settings import SchedulerSettings
from worker_svc.assembly import assemble
from worker_svc.server import WorkerServer
from worker_svc.settings import WorkerSettings


@dataclass(frozen=True, slots=True)
class Stack:
    """Where the service listens, and the queue behind it."""

    target: str
    model: str
    queue: JobQueue
    workers: Sequence[str]
    http: str = ""


@asynccontextmanager
async def worker(checkpoint: Path, model: str, **settings: Any) -> AsyncIterator[str]:
    """Serve a worker, on any port unless one is given; yields its address."""
    usual = {"port": 0, "device": "cpu", "num_threads": 1}
    chosen = WorkerSettings(model=str(checkpoint), model_name=model, **{**usual, **settings})
    server = WorkerServer(chosen, await asyncio.to_thread(assemble, chosen, uuid4().hex))
    address = await server.start()
    try:
        yield address
    finally:
        await server.stop()
        assert not server.failure.done(), server.failure.result()


@asynccontextmanager
async def stack(
    checkpoint: Path,
    redis_url: str,
    *,
    worker_settings: dict[str, Any] | None = None,
    **settings: Any,
) -> AsyncIterator[Stack]:
    """Serve ``checkpoint`` under a name of its own, so that one Redis serves many stacks."""
    model = f"{checkpoint.name}-{uuid4().hex[:8]}"
    async with worker(checkpoint, model, **(worker_settings or {})) as address:
        chosen = SchedulerSettings(
            model=str(checkpoint),
            model_name=model,
            port=0,
            workers=address,
            redis_url=redis_url,
            **settings,
        )
        async with scheduler(chosen) as running:
            while not await running.queue.workers():
                await asyncio.sleep(0.01)
            yield Stack(running.address, model, running.queue, (address,), running.http_address)
