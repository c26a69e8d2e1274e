"""The clients: so many streams at once, each of one job after another, all noted in a ledger."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, aclosing
from time import monotonic

from stepserve import AsyncClient, RetryPolicy
from stepserve.protocol.errors import StepserveError
from stepserve_bench.chaos.jobs import ChaosJob
from stepserve_bench.chaos.ledger import Entry, Ledger

# Of the jobs, those whose follower goes away in the midst and comes back elsewhere.
RETURNING_SHARE = 0.2
AWAY_S = 0.2
# So long a client tries a call again before it is an error.
PATIENCE_S = 60.0
AGAIN_AFTER_S = 1.0


class Load:
    """Submits and follows jobs through every scheduler's address until told to stop."""

    def __init__(self, targets: Sequence[str], jobs: Iterator[ChaosJob], ledger: Ledger) -> None:
        self._targets = targets
        self._jobs = jobs
        self._ledger = ledger
        self._chance = random.Random(0)
        self._clients: list[AsyncClient] = []
        self._is_over = False

    async def run(self, num_streams: int) -> None:
        """Keep so many streams going; return when it is over and each job has ended.

        The first client of a rotation prefers the first scheduler, and so on.
        """
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
            for first in range(len(self._targets)):
                order = [*self._targets[first:], *self._targets[:first]]
                client = AsyncClient(",".join(order), RetryPolicy(patience_s=PATIENCE_S))
                self._clients.append(await stack.enter_async_context(client))
            tasks = [
                group.create_task(self._stream(number, num_streams))
                for number in range(num_streams)
            ]
            await asyncio.wait(tasks)

    def end(self) -> None:
        """Submit no more."""
        self._is_over = True

    async def _stream(self, number: int, num_streams: int) -> None:
        # Not all at once: a service is not begun with by everybody in one moment.
        await asyncio.sleep(number / num_streams)
        while not self._is_over:
            job = next(self._jobs)
            try:
                job_id = await self._client(number).submit(job.request())
            except StepserveError as error:
                self._ledger.fail("submit", error)
                await asyncio.sleep(AGAIN_AFTER_S)
                continue
            await self._follow(self._ledger.accept(job_id, job), number)

    def _client(self, number: int) -> AsyncClient:
        return self._clients[number % len(self._clients)]

    async def _follow(self, entry: Entry, number: int) -> None:
        """Follow the job to its end, from where it is; some go away in the midst of it."""
        leaves_at = self._chance.randint(1, 20)
        leaves = self._chance.random() < RETURNING_SHARE
        while not entry.has_ended:
            client = self._client(number)
            try:
                async with aclosing(client.attach(entry.job_id, offsets=entry.offsets)) as events:
                    async for event in events:
                        self._ledger.see(entry, event, monotonic())
                        if leaves and max(entry.offsets) >= leaves_at:
                            break
            except StepserveError as error:
                self._ledger.fail(f"attach {entry.job_id}", error)
                await asyncio.sleep(AGAIN_AFTER_S)
            if leaves:
                await asyncio.sleep(AWAY_S)
                leaves, number = False, number + 1
