"""The model as it can be served now: its workers may hold less than it could."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import replace

from scheduler_svc.queue import JobQueue, WorkerRecord
from scheduler_svc.text.model_card import ModelCard
from stepserve.protocol.errors import Unavailable

# So old may be what is known of the workers; a submit is one round trip to Redis then.
MAX_AGE_S = 1.0


class LiveCard:
    """A model's card, with the least of its workers' context limits.

    Any worker may come to run a job, so it must fit into each of them. They may hold less
    than the model could, and more than its files say. While none is there, its files' limit
    holds.
    """

    def __init__(self, queue: JobQueue, card: ModelCard) -> None:
        self._queue = queue
        self._card = card
        self._live = self._widest = card
        self._step_s = 0.0
        self._known_at_s = float("-inf")
        self._asking = asyncio.Lock()

    async def get(self) -> ModelCard:
        """Return it; while Redis is away, as it was last known."""
        clock = asyncio.get_running_loop().time
        async with self._asking:
            if clock() - self._known_at_s > MAX_AGE_S:
                with contextlib.suppress(Unavailable):
                    self._look_at(await self._queue.workers())
                self._known_at_s = clock()
            return self._live

    async def widest(self) -> ModelCard:
        """Return it with the largest limit that any worker was seen to have, or its files say.

        A request that is repeated may be of a time when that held: it is read all the same.
        """
        await self.get()
        return self._widest

    @property
    def step_s(self) -> float:
        """How long a step takes on the fastest worker; 0 while that of any is not known."""
        return self._step_s

    def _look_at(self, workers: Sequence[WorkerRecord]) -> None:
        infos = [worker.info for worker in workers]
        limits = [int(info["max_context"]) for info in infos if "max_context" in info]
        self._live = replace(self._card, max_context=min(limits, default=self._card.max_context))
        widest = max(self._widest.max_context, *limits, self._card.max_context)
        self._widest = replace(self._card, max_context=widest)
        self._step_s = min((worker.step_us for worker in workers), default=0) / 1e6
