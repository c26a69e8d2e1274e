"""One lane over a real worker and a real Redis, and what a test sees of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from scheduler_svc.core.events import Effect, Event, Reported
from scheduler_svc.core.scheduler import Core
from scheduler_svc.fleet.hold import worker_stream
from scheduler_svc.lane.lane import Lane
from scheduler_svc.lane.replica import Replica
from scheduler_svc.lane.takeover import Takeover, take_over
from scheduler_svc.lane.turns import TurnObserver
from scheduler_svc.queue import JobQueue, JobSnapshot, Lease
from scheduler_svc.settings import SchedulerSettings
from scheduler_svc.text.model_card import ModelCard
from stepserve.protocol.job import JobSpec
from stepserve.protocol.sampling import Sampling
from tests.e2e.stack import worker
from tests.scheduler_svc.queue.build import tokens_of, within

PROMPT = (5, 6, 7)
NUM_TOKENS = 120
Turn = tuple[Sequence[Event], Sequence[Effect]]


@dataclass(frozen=True, slots=True)
class Service:
    """A queue of its own, and what its lanes are made of."""

    checkpoint: Path
    replica: Replica

    @property
    def queue(self) -> JobQueue:
        return self.replica.queue

    async def submit(self, max_tokens: int = NUM_TOKENS, **more: Any) -> str:
        sampling = Sampling(max_tokens=max_tokens, temperature=0.0, ignore_eos=True, **more)
        spec = JobSpec(uuid4().hex, self.replica.card.name, PROMPT, sampling)
        return (await self.queue.submit(spec)).job_id

    async def job(self, job_id: str) -> JobSnapshot:
        job = await self.queue.job(job_id)
        assert job is not None
        return job

    async def ended(self, job_id: str) -> tuple[str, tuple[int, ...]]:
        """Wait until it has ended; return why, and its tokens."""
        async with within(60):
            while (job := await self.job(job_id)).state != "ended":
                await asyncio.sleep(0.01)
        [output] = job.outputs
        assert output.finish is not None
        return output.finish.reason, await tokens_of(self.queue, job_id)

    async def under_way(self, job_id: str) -> None:
        await self._has(job_id, 3)

    async def further(self, job_id: str) -> None:
        """Wait until it has some more tokens than now."""
        await self._has(job_id, (await self.job(job_id)).outputs[0].num_tokens + 3)

    async def _has(self, job_id: str, num_tokens: int) -> None:
        async with within(60):
            while (await self.job(job_id)).outputs[0].num_tokens < num_tokens:
                await asyncio.sleep(0.005)


@asynccontextmanager
async def service(checkpoint: Path, redis_url: str) -> AsyncIterator[Service]:
    name = f"lane-{uuid4().hex[:8]}"
    settings = SchedulerSettings(model=str(checkpoint), redis_url=redis_url)
    async with JobQueue(redis_url, name) as queue:
        await queue.adopt_order()
        card = ModelCard.load(checkpoint, name)
        yield Service(checkpoint, Replica(queue, card, settings, "me"))


@asynccontextmanager
async def working(of: Service) -> AsyncIterator[str]:
    """A worker's address."""
    async with worker(of.checkpoint, of.replica.card.name, dtype="float64") as address:
        yield address


@dataclass(frozen=True, slots=True)
class Driven:
    """A lane that runs, under its lease; ``stop`` asks it to leave."""

    lane: Lane
    lease: Lease
    task: asyncio.Task[bool]
    stop: asyncio.Event
    taken: Takeover


@asynccontextmanager
async def driving(
    of: Service, address: str, *observers: TurnObserver, dies: bool = False
) -> AsyncIterator[Driven]:
    """Drive a worker for the time of the block; at its end leave it, or die as a process does."""
    replica = of.replica
    async with worker_stream(address, replica.settings) as stream:
        info = await stream.describe()
        lease = await acquired(of, address, info.incarnation)
        taken = await take_over(replica, lease, stream, info)
        lane = Lane(replica, lease, stream, taken.reply, taken.config, observers)
        if taken.adoption is not None:
            lane.adopt(taken.adoption)
        stop = asyncio.Event()
        task = asyncio.create_task(lane.run(stop))
        try:
            yield Driven(lane, lease, task, stop, taken)
        finally:
            if dies:
                task.cancel()
            stop.set()
            [goes_on] = await asyncio.gather(task, return_exceptions=True)
            if goes_on is True:
                await of.queue.hand_over(lease)
            elif not dies:
                await of.queue.release(lease)


async def acquired(of: Service, address: str, incarnation: str = "") -> Lease:
    """The lease of the worker, whoever has it: a holder's own is given out anew."""
    ttl_ms = int(1000 * of.replica.settings.lease_ttl_s)
    lease = await of.queue.acquire(address, of.replica.holder, ttl_ms, incarnation=incarnation)
    assert lease is not None
    return lease


@dataclass
class Notes:
    """An observer that keeps every turn."""

    turns: list[Turn] = field(default_factory=list)

    def observe(self, events: Sequence[Event], effects: Sequence[Effect], _: Core, /) -> None:
        self.turns.append((tuple(events), tuple(effects)))

    @property
    def num_positions(self) -> dict[int, int]:
        """Tokens that each reported step computed, by step."""
        reported = [e.report for events, _ in self.turns for e in events if isinstance(e, Reported)]
        return {report.step: report.num_positions for report in reported}
