"""What an edge keeps of a job is stored again with it, however large it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
from redis import Redis

from scheduler_svc.core.events import Commit
from scheduler_svc.lane.committer import Committer
from scheduler_svc.lane.edge_room import EdgeRoom
from scheduler_svc.lane.held_jobs import HeldJobs
from scheduler_svc.lane.large_edges import LargeEdges
from scheduler_svc.lane.loop import Inbox
from scheduler_svc.queue import JobQueue
from scheduler_svc.queue.recent import RecentJobs
from tests.scheduler_svc.queue.build import FINGERPRINT, lease_on, row, spec, within


@pytest.fixture
async def queue(redis_url: str) -> AsyncIterator[JobQueue]:
    async with JobQueue(redis_url, f"edges-{uuid4().hex}") as queue:
        yield queue


@asynccontextmanager
async def reading(edges: LargeEdges) -> AsyncIterator[None]:
    task = asyncio.create_task(edges.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until_read(held: HeldJobs, num_bytes: int) -> None:
    async with within():
        while held.num_edge_bytes < num_bytes:
            await asyncio.sleep(0.005)


async def submitted(queue: JobQueue, *sizes: int) -> list[str]:
    return [(await queue.submit(spec(), edge="e" * size)).job_id for size in sizes]


async def test_a_lost_job_has_its_large_edge_again(queue: JobQueue, redis_url: str) -> None:
    small, large = await submitted(queue, 10, 100_000)
    lease, held = await lease_on(queue), HeldJobs()
    edges = LargeEdges(queue, held, EdgeRoom())
    committer = Committer(queue, lease, Inbox(), held)
    jobs = await queue.claim(lease, FINGERPRINT, 2)
    held.take(jobs)
    edges.take(jobs)
    async with reading(edges):
        await until_read(held, 100_010)
    # Its process is gone, or has kept it for as long as it does.
    queue._submitting._recent = RecentJobs()
    with Redis.from_url(redis_url) as redis:
        redis.delete(*(queue._shard.keys.job(job_id) for job_id in (small, large)))
    queue._mending._continuity.note({"run_id": "of the server before"})
    await committer.perform(Commit(1, (row(large, 0, [1]), row(small, 0, [1]))))
    assert await queue.edge_of(large) == "e" * 100_000
    assert await queue.edge_of(small) == "e" * 10


async def test_edges_are_held_within_a_bound_and_as_long_as_their_jobs(
    queue: JobQueue,
) -> None:
    await submitted(queue, 9000, 12_000, 8000)
    held = HeldJobs()
    edges = LargeEdges(queue, held, EdgeRoom(20_000))
    jobs = await queue.claim(await lease_on(queue), FINGERPRINT, 3)
    held.take(jobs)
    edges.take(jobs)
    async with reading(edges):
        await until_read(held, 17_000)
        assert held.num_edge_bytes == 17_000
        gone = jobs[0].spec.job_id
        held._running.pop(gone)
        edges.take([jobs[0], jobs[1]])
        await until_read(held, 20_000)
    assert held.num_edge_bytes == 20_000
    assert held.spec_of(gone) is None


async def test_lanes_of_a_process_share_one_bound(queue: JobQueue) -> None:
    """Each of two takes over what would fill it; one that ends leaves its room to the other."""
    await submitted(queue, *[9000] * 4)
    room, lanes = EdgeRoom(20_000), [HeldJobs(), HeldJobs()]
    readers = [LargeEdges(queue, held, room) for held in lanes]
    lease = await lease_on(queue)
    jobs = await queue.claim(lease, FINGERPRINT, 4)
    for held, edges, some in zip(lanes, readers, (jobs[:2], jobs[2:]), strict=True):
        held.take(some)
        edges.take(some)
    async with reading(readers[1]):
        async with reading(readers[0]):
            await until_done(*readers)
            assert sum(held.num_edge_bytes for held in lanes) == 18_000
        readers[1].take(jobs[2:])
        await until_done(readers[1])
    assert lanes[1].num_edge_bytes == 18_000


async def until_done(*readers: LargeEdges) -> None:
    """All that they were given is read, or left."""
    async with within():
        while any(edges._reads._items for edges in readers):
            await asyncio.sleep(0.005)
