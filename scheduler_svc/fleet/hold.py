"""One hold of a worker: from when its lease is ours until it is not."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from scheduler_svc.fleet.assignment import Assignment, Held
from scheduler_svc.lane.lane import Lane
from scheduler_svc.lane.lease_keeper import LeaseKeeper
from scheduler_svc.lane.recordings import recordings
from scheduler_svc.lane.replica import Replica
from scheduler_svc.lane.step_deadline import StepDeadline
from scheduler_svc.lane.takeover import take_over
from scheduler_svc.lane.turns import TurnObserver
from scheduler_svc.lane.worker_stream import WorkerGone, WorkerStream
from scheduler_svc.queue import Lease
from scheduler_svc.settings import SchedulerSettings
from scheduler_svc.spans.lane_spans import spans_of_lane
from stepserve.protocol.errors import StepserveError, Unavailable
from stepserve.protocol.step import WorkerInfo
from stepserve.tls.fleet import FleetCaller

log = logging.getLogger(__name__)


async def hold(
    replica: Replica,
    address: str,
    stream: WorkerStream,
    info: WorkerInfo,
    assignment: Assignment,
) -> None:
    """Take the worker at ``address`` if it is free, drive it until told to leave, hand it over.

    Returns when it is another's, or was handed over. Raises WorkerGone where there is none
    for us, LeaseLost, Unavailable.
    """
    ttl_ms = int(replica.settings.lease_ttl_s * 1000)
    told = {
        "incarnation": info.incarnation,
        "fingerprint": info.fingerprint,
        "max_context": str(info.max_context),
        "places": str(min(info.max_batch_size, replica.settings.max_batch_size)),
        "num_blocks": str(info.num_blocks),
        "block_size": str(info.block_size),
    }
    queue = replica.queue
    # Hung is dead, and so is what a lane that failed has left: unnamed, nothing goes on.
    incarnation = "" if assignment.is_doubtful else info.incarnation
    lease = await queue.acquire(address, replica.holder, ttl_ms, told, incarnation)
    assignment.is_doubtful = False  # What was claimed waits again, or is somebody else's.
    if lease is None:
        return
    goes_on = False
    try:
        goes_on = await _drive(replica, lease, stream, info, assignment)
    finally:
        # Its jobs go on, or were given back, in the ordinary case; else they wait again now.
        try:
            await (queue.hand_over if goes_on else queue.release)(lease)
        except Unavailable:
            assignment.is_doubtful = not goes_on
            log.warning("worker %s: Redis is away, its lease must expire", address)


@contextlib.asynccontextmanager
async def worker_stream(address: str, settings: SchedulerSettings) -> AsyncIterator[WorkerStream]:
    """A stream to a worker, not yet open; closed in the end.

    Raises WorkerGone where the files that it is to know us by are of no use now.
    """
    deadline = StepDeadline(settings.min_step_timeout_s, settings.step_timeout_s)
    try:
        caller = FleetCaller(settings)
    except StepserveError as error:
        raise WorkerGone(f"it would not know us: {error}") from error
    stream = WorkerStream(address, deadline, caller)
    try:
        yield stream
    finally:
        await stream.close()


async def _drive(
    replica: Replica, lease: Lease, stream: WorkerStream, info: WorkerInfo, assignment: Assignment
) -> bool:
    """Drive it until told to leave or a loss; whether the next holder can go on from there."""
    if await _is_known_by_another_name(replica, lease):
        raise WorkerGone("it is driven under another of its addresses")
    async with _kept(replica, lease):
        taken = await take_over(replica, lease, stream, info)
    log.info("worker %s: driving %s", lease.worker_id, info.incarnation)
    config = taken.config
    with (
        replica.turns.lane(config) as meter,
        replica.broadcast.lane(lease.worker_id, config) as picture,
        spans_of_lane(replica.tracing, lease.worker_id, replica.turns) as spans,
        recordings(replica.settings, lease, config) as recorders,
        assignment.holding(Held(lease.epoch, meter)),
    ):
        observers: tuple[TurnObserver, ...] = (meter, picture, *spans, *recorders)
        lane = Lane(replica, lease, stream, taken.reply, config, observers)
        if taken.adoption is not None:
            lane.adopt(taken.adoption)
        return await lane.run(assignment.should_leave)


@contextlib.asynccontextmanager
async def _kept(replica: Replica, lease: Lease) -> AsyncIterator[None]:
    """Renew the lease while there is no lane that does: the worker's step may take longer.

    If it is lost all the same, whoever needs it next finds out.
    """
    keeper = asyncio.create_task(LeaseKeeper(replica.queue, lease, lambda: (0, 0)).run())
    try:
        yield
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)


async def _is_known_by_another_name(replica: Replica, lease: Lease) -> bool:
    """Whether the same worker is driven under an address that comes before this one.

    A host may have several addresses; without this, two lanes would take one worker from
    each other for ever.
    """
    workers = await replica.queue.workers()
    ours = next(
        (w.info.get("incarnation") for w in workers if w.worker_id == lease.worker_id), None
    )
    return any(w.info.get("incarnation") == ours and w.worker_id < lease.worker_id for w in workers)
