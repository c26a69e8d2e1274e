"""The faults: each strikes one worker, the scheduler that drives it, or both.

What was stopped goes on at the end; what was killed stays so until ``FaultyService.revive``.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager

from scheduler_svc.queue import JobQueue, Lease, WorkerRecord
from stepserve.local.processes import Child
from stepserve_bench.chaos.stopping import stopped_process, stopped_thread
from tests.fault.service import FaultyService
from tests.fault.streams import Streams, flowing

NUM_STREAMS = 9
MAX_END_S = 20.0

# Strikes (worker, scheduler) for the time of a block.
Fault = Callable[[Child, Child], AbstractContextManager[None]]


def _stop_worker(worker: Child, _: Child) -> AbstractContextManager[None]:
    return stopped_process(worker.process.pid)


def _stop_compute_thread(worker: Child, _: Child) -> AbstractContextManager[None]:
    return stopped_thread(worker.process.pid, "model")


@contextlib.contextmanager
def _killed(*children: Child) -> Iterator[None]:
    for child in children:
        child.process.send_signal(signal.SIGKILL)
    yield


def _kill_scheduler(_: Child, scheduler: Child) -> AbstractContextManager[None]:
    return _killed(scheduler)


@contextlib.contextmanager
def _end_scheduler(_: Child, scheduler: Child) -> Iterator[None]:
    scheduler.process.send_signal(signal.SIGTERM)
    yield
    scheduler.process.wait(MAX_END_S)


def _kill_both(worker: Child, scheduler: Child) -> AbstractContextManager[None]:
    return _killed(worker, scheduler)


FAULTS: Mapping[str, Fault] = {
    "worker stopped": _stop_worker,
    "compute thread stopped": _stop_compute_thread,
    "scheduler killed": _kill_scheduler,
    "scheduler asked to end": _end_scheduler,
    "worker and scheduler killed": _kill_both,
}


async def _until_noticed(queue: JobQueue, before: WorkerRecord) -> None:
    """Wait until the lease is another one, or gone."""
    while (before.worker_id, before.epoch) in [
        (record.worker_id, record.epoch) for record in await queue.workers()
    ]:
        await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def struck(
    service: FaultyService, queue: JobQueue, fault: Fault
) -> AsyncIterator[tuple[Streams, Child, float]]:
    """Let streams flow and strike; yields them, the worker that was struck, and when.

    It yields when the fault was noticed: until then tokens may come that were on their way.

    They are followed at a scheduler that is not struck. The worker runs some of them: on a busy
    machine one may claim them all, and then others are sent.
    """
    record = (await queue.workers())[0]
    worker, scheduler = service.workers[record.worker_id], service.holder_of(record.holder)
    other = next(child for child in service.schedulers if child is not scheduler)
    lease = Lease(record.worker_id, record.holder, record.epoch, ttl_ms=0)
    while True:
        async with flowing(other.fields["grpc"], NUM_STREAMS) as streams:
            await streams.flow()
            if await queue.claimed(lease):
                struck_s = time.monotonic()
                with fault(worker, scheduler):
                    await _until_noticed(queue, record)
                    yield streams, worker, struck_s
                return
