"""What others did to a lane's jobs in Redis, and what Redis lost, is noticed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import uuid4

from scheduler_svc.core.events import Cancelled, Event
from scheduler_svc.lane.held_jobs import HeldJobs
from scheduler_svc.lane.loop import Inbox
from scheduler_svc.lane.queue_watch import QueueWatch
from scheduler_svc.queue import JobQueue, Lease
from stepserve.protocol.job import ClaimedJob
from tests.scheduler_svc.queue.build import FINGERPRINT, lease_on, submit, within


@dataclass(frozen=True, slots=True)
class World:
    """A watch that runs beside a lane that holds what it was given."""

    queue: JobQueue
    lease: Lease
    held: HeldJobs
    inbox: Inbox
    watch: QueueWatch

    async def claimed(self) -> ClaimedJob:
        await submit(self.queue, 1)
        [job] = await self.queue.claim(self.lease, FINGERPRINT, 1)
        return job

    async def heard(self) -> list[Event]:
        async with within():
            await self.inbox.wait()
        return self.inbox.take()


@asynccontextmanager
async def world(redis_url: str) -> AsyncIterator[World]:
    async with JobQueue(redis_url, f"watch-{uuid4().hex[:8]}") as queue:
        lease, held, inbox = await lease_on(queue), HeldJobs(), Inbox()
        yield World(queue, lease, held, inbox, QueueWatch(queue, lease, held, inbox))


@asynccontextmanager
async def running(watch: QueueWatch) -> AsyncIterator[None]:
    task = asyncio.create_task(watch.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_the_core_is_told_of_held_jobs_that_others_ended(redis_url: str) -> None:
    async with world(redis_url) as it:
        early, late, other = [await it.claimed() for _ in range(3)]
        it.held.take([early, late])
        await it.queue.cancel(early.spec.job_id)  # before anybody listened
        async with running(it.watch):
            assert await it.heard() == [Cancelled((early.spec.job_id,))]
            await it.queue.cancel(other.spec.job_id)
            await it.queue.cancel(late.spec.job_id)
            assert await it.heard() == [Cancelled((late.spec.job_id,))]


async def test_a_claim_that_nobody_runs_waits_again(redis_url: str) -> None:
    async with world(redis_url) as it:
        ours, orphan, ended = [await it.claimed() for _ in range(3)]
        it.held.take([ours, ended])
        await it.watch.requeue_orphans()
        assert await it.queue.num_queued() == 0, "nothing may have been lost yet"
        await it.queue.cancel(ended.spec.job_id)
        async with running(it.watch):
            await it.heard()  # It was told that everything may have moved.
            await it.watch.requeue_orphans()
        assert await it.queue.claimed(it.lease) == {ours.spec.job_id}
        [again] = await it.queue.claim(it.lease, FINGERPRINT, 3)
        assert again.spec.job_id == orphan.spec.job_id
        await it.watch.requeue_orphans()
        assert await it.queue.num_queued() == 0, "once for each loss"
