"""Greets a worker whose lease has become ours, and finds out what of it can go on."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from scheduler_svc.core.adoption import Adoption, decide_adoption
from scheduler_svc.core.config import CoreConfig
from scheduler_svc.core.errors import ProtocolError
from scheduler_svc.lane.core_config import core_config
from scheduler_svc.lane.lane import LeaseLost
from scheduler_svc.lane.replica import Replica
from scheduler_svc.lane.worker_stream import WorkerStream
from scheduler_svc.queue import Fenced, Lease
from stepserve.protocol.step import Hello, HelloReply, WorkerInfo

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Takeover:
    """A worker that is ours to drive; ``adoption`` is what goes on there, None for nothing."""

    reply: HelloReply
    config: CoreConfig
    adoption: Adoption | None = None


async def take_over(
    replica: Replica, lease: Lease, stream: WorkerStream, info: WorkerInfo
) -> Takeover:
    """Say Hello under the lease, and adopt what was claimed under it.

    The epoch is raised already: nobody else writes the logs or plans steps. Where nothing is
    claimed, or the worker's word can't be right, it is reset and the claims are given back.
    Raises WorkerGone, LeaseLost, Unavailable.
    """
    try:
        if lease.num_inherited:
            return await _adopt(replica, lease, stream, info)
    except Fenced:
        raise LeaseLost(f"the lease of {lease.worker_id} was taken over") from None
    except ProtocolError as error:
        log.error("worker %s can't be taken over as it is: %s", lease.worker_id, error)
        await _give_back(replica, lease)
    reply = await stream.open(Hello(lease.epoch, replica.holder, info.incarnation, reset=True))
    return Takeover(reply, core_config(lease, reply, replica.settings))


async def _give_back(replica: Replica, lease: Lease) -> None:
    try:
        claimed = await replica.queue.claimed(lease)
        await replica.queue.requeue(lease, sorted(claimed))
    except Fenced:
        raise LeaseLost(f"the lease of {lease.worker_id} was taken over") from None


async def _adopt(
    replica: Replica, lease: Lease, stream: WorkerStream, info: WorkerInfo
) -> Takeover:
    hello = Hello(lease.epoch, replica.holder, info.incarnation, wants_reports=True)
    queue = replica.queue
    # The worker finishes the step that it is at; meanwhile the logs are read.
    reading = asyncio.create_task(queue.inherit(lease, info.fingerprint))
    try:
        reply = await stream.open(hello)
    finally:
        await asyncio.gather(reading, return_exceptions=True)
    jobs = reading.result()
    reports = await stream.kept_reports(reply.num_kept_reports)
    config = core_config(lease, reply, replica.settings)
    adoption = decide_adoption(jobs, reply, reports, config)
    if adoption.given_back:
        await queue.requeue(lease, adoption.given_back)
    event = adoption.event
    log.info(
        "worker %s: %d sequences go on, %d are computed again, %d jobs wait again",
        lease.worker_id,
        len(event.kept),
        len(event.released),
        len(adoption.given_back),
    )
    return Takeover(reply, config, adoption)
