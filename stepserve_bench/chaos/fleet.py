"""The service that is broken: Redis, schedulers and workers as processes, links before them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from scheduler_svc.queue import JobQueue, Lease
from stepserve.local.processes import Service, Supervisor
from stepserve.protocol.errors import StepserveError
from stepserve_bench.chaos.link import Link
from stepserve_bench.chaos.member import Member
from stepserve_bench.chaos.redis_pair import RedisPair
from stepserve_bench.oracle_worker.oracle import CRASH

POLL_S = 0.05
LOOK_TIMEOUT_S = 0.5
START_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to start. ``worker`` and ``scheduler``: module and flags, but for where they meet.

    ``num_jobs``: how many it will have at once, at most.
    """

    model_name: str
    worker: Sequence[str]
    scheduler: Sequence[str]
    num_workers: int
    num_schedulers: int
    num_jobs: int
    directory: Path


class Fleet:
    """All processes and links of a running service."""

    def __init__(self, plan: Plan, supervisor: Supervisor) -> None:
        self._plan = plan
        self._supervisor = supervisor
        self.redis = RedisPair(plan.directory)
        self.workers: list[Member] = []
        self.schedulers: list[Member] = []
        self.num_jobs = plan.num_jobs
        self.num_crashes = 0
        # One at a time, so that it is known whose crashes they are.
        self.poisoning = asyncio.Lock()

    @property
    def members(self) -> list[Member]:
        return [*self.schedulers, *self.workers]

    @property
    def targets(self) -> list[str]:
        """Where clients reach each scheduler: through its link."""
        return [member.link.address for member in self.schedulers if member.link]

    async def start(self, links: contextlib.AsyncExitStack) -> None:
        """Start all of it, and wait until each worker is driven. Raises StepserveError."""
        plan = self._plan
        await self.redis.start(links)
        quiet = {"STEPSERVE_LOG_LEVEL": os.environ.get("STEPSERVE_LOG_LEVEL", "CRITICAL")}
        for number in range(plan.num_workers):
            service = Service(f"worker-{number}", list(plan.worker), quiet)
            self.workers.append(Member(service.name, self._supervisor, service))
        addresses = []
        for worker in self.workers:
            worker.link = Link((await worker.wait_ready())["worker"])
            addresses.append((await links.enter_async_context(worker.link)).address)
        environment = {**quiet, "STEPSERVE_REDIS_URL": self.redis.url}
        flags = [*plan.scheduler, f"--workers={','.join(addresses)}"]
        for number in range(plan.num_schedulers):
            service = Service(f"scheduler-{number}", flags, environment)
            self.schedulers.append(Member(service.name, self._supervisor, service))
        for scheduler in self.schedulers:
            scheduler.link = Link((await scheduler.wait_ready())["grpc"])
            await links.enter_async_context(scheduler.link)
        await self.until_driven()

    def queue(self) -> JobQueue:
        """The service's queue, to look at."""
        return JobQueue(self.redis.url, self._plan.model_name)

    async def until_driven(self) -> None:
        """Wait until every worker has a lane. Raises StepserveError where that takes too long."""
        try:
            async with asyncio.timeout(START_TIMEOUT_S), self.queue() as queue:
                while len(await queue.workers()) < len(self.workers):
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise StepserveError("not every worker is driven") from None

    async def claims(self) -> dict[tuple[str, str], frozenset[str]]:
        """The jobs that each (worker, scheduler) that drives it holds, by their names.

        Of what can't be seen now, nothing: Redis may be away.
        """
        found: dict[tuple[str, str], frozenset[str]] = {}
        with contextlib.suppress(TimeoutError, StepserveError):
            async with asyncio.timeout(LOOK_TIMEOUT_S), self.queue() as queue:
                for record in await queue.workers():
                    lease = Lease(record.worker_id, record.holder, record.epoch, ttl_ms=0)
                    names = self._worker_at(record.worker_id), self._holder(record.holder)
                    with contextlib.suppress(StepserveError):  # it changed hands this moment
                        found[names] = await queue.claimed(lease)
        return found

    def _worker_at(self, address: str) -> str:
        links = ((member.name, member.link) for member in self.workers)
        return next((name for name, link in links if link and link.address == address), "")

    def _holder(self, holder: str) -> str:
        return next((m.name for m in self.schedulers if f"-{m.pid}-" in holder), "")

    def unexpected(self) -> list[Member]:
        """Those that were up and have ended by themselves."""
        return [m for m in self.members if m.is_up and m.child.process.poll() is not None]

    def is_poisoned(self, status: int) -> bool:
        """Whether who ended with this status ran poison; counts it.

        A command of before may come late, through a link that was stopped, when the job has been
        convicted elsewhere. That nobody runs it for good is seen in the end: no job may be left.
        """
        is_poisoned = status == -CRASH
        self.num_crashes += is_poisoned
        return is_poisoned


@contextlib.asynccontextmanager
async def running(plan: Plan) -> AsyncIterator[Fleet]:
    """Yield a fleet that serves; stop all of it. Use in the main thread."""
    with contextlib.ExitStack() as supervised:
        fleet = Fleet(plan, supervised.enter_context(Supervisor(threading.Event())))
        try:
            async with contextlib.AsyncExitStack() as links:
                await fleet.start(links)
                yield fleet
                await asyncio.to_thread(supervised.close)
        finally:
            supervised.close()
            await fleet.redis.close()
