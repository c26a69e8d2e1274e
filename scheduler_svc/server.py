"""One scheduler process: the api, the lanes, or both, until a signal."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import uuid
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protos.errors import StepserveError, Unavailable
from scheduler_svc.api.model_card import ModelCard
from scheduler_svc.api.server import ApiServer
from scheduler_svc.lane import Shard
from scheduler_svc.lanes import Lanes
from scheduler_svc.queue import JobQueue, QueueLimits, redacted
from scheduler_svc.settings import SchedulerSettings

log = logging.getLogger(__name__)

PROG = "stepserve scheduler"
SWEEP_INTERVAL_S = 1.0
POLL_INTERVAL_S = 0.05


@dataclass(frozen=True, slots=True)
class Running:
    """A scheduler that runs: its gRPC address ("" without the api role), model and queue."""

    address: str
    model: str
    queue: JobQueue


@asynccontextmanager
async def scheduler(settings: SchedulerSettings) -> AsyncIterator[Running]:
    """Run a scheduler for the time of the block.

    Raises StepserveError where the model or Redis is not there, or the address is taken.
    """
    for directory in filter(None, (settings.record_dir, settings.record_events_dir)):
        _make_directory(directory)
    card = await asyncio.to_thread(ModelCard.load, settings.model, settings.model_name or None)
    limits = QueueLimits(
        max_queued_jobs=settings.max_queued_jobs,
        retention_s=settings.retention_s,
        durability=settings.durability,
        lease_grace_s=settings.lease_ttl_s,
        on_model_change=settings.on_model_change,
        stranded_grace_s=settings.stranded_grace_s,
    )
    async with AsyncExitStack() as stack:
        queue = await stack.enter_async_context(
            JobQueue(redis_url(settings), card.name, limits, settings.order)
        )
        await _prepare(queue, settings)
        await stack.enter_async_context(_background(_sweep(queue)))
        address = ""
        if settings.roles != "lane":
            api = ApiServer(queue, card, settings.disconnect_grace_s, settings.reflection)
            address = await api.start(settings.host, settings.port)
            stack.push_async_callback(api.stop)
        if settings.roles != "api":
            holder = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
            lanes = Lanes(Shard(queue, card, settings, holder), settings.worker_addresses)
            await stack.enter_async_context(_background(lanes.run()))
            stack.push_async_callback(lanes.drain)
        yield Running(address, card.name, queue)


def redis_url(settings: SchedulerSettings) -> str:
    """Return where Redis is. Raises StepserveError where nobody said."""
    url = settings.redis_url
    if not url:
        raise StepserveError(
            "no Redis: give --redis-url or STEPSERVE_REDIS_URL (redis://HOST:PORT/DB), "
            "or use `stepserve up`, which starts one"
        )
    return url


def _make_directory(directory: str) -> None:
    """Make it where it is not there. Raises StepserveError where that can't be done."""
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StepserveError(f"can't record into {directory}: {error.strerror}") from None


async def _prepare(queue: JobQueue, settings: SchedulerSettings) -> None:
    """See that Redis is there, and that the jobs in it are in our order."""
    try:
        await queue.adopt_order()
    except Unavailable as error:
        raise StepserveError(f"no Redis at {redacted(settings.redis_url)}: {error}") from None


async def _sweep(queue: JobQueue) -> None:
    """End overdue jobs and forget old ones, again and again; any replica may, at any time."""
    while True:
        with contextlib.suppress(Unavailable):
            await queue.sweep()
        await asyncio.sleep(SWEEP_INTERVAL_S)


@asynccontextmanager
async def _background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    task.add_done_callback(_surface)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _surface(task: asyncio.Task[None]) -> None:
    """A background task that fails is a bug of ours: say so and end the process."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("a background task failed", exc_info=error)
        os.kill(os.getpid(), signal.SIGTERM)


async def serve(settings: SchedulerSettings) -> None:
    """Serve until SIGTERM or SIGINT; prints ``ready grpc=HOST:PORT model=NAME``."""
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    async with scheduler(settings) as running:
        while settings.wait_for_worker and not await _num_workers(running.queue):
            if stop.is_set():
                return
            await asyncio.sleep(POLL_INTERVAL_S)
        print(f"ready grpc={running.address} model={running.model}", flush=True)
        await stop.wait()


async def _num_workers(queue: JobQueue) -> int:
    try:
        return len(await queue.workers())
    except Unavailable:
        return 0


def run(settings: SchedulerSettings) -> int:
    """Serve; return the exit status: 1 where it cannot be served, with one line saying why."""
    logging.basicConfig(
        level=os.environ.get("STEPSERVE_LOG_LEVEL", "INFO").upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    try:
        asyncio.run(serve(settings))
    except StepserveError as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 1
    return 0
