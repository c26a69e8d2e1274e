"""The model as it can be served now: its workers may hold less than it could."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

from protos.errors import Unavailable
from scheduler_svc.api.model_card import ModelCard
from scheduler_svc.queue import JobQueue

# So old may be what is known of the workers; a submit is one round trip to Redis then.
MAX_AGE_S = 1.0


class LiveCard:
    """A model's card, with the context limit of the worker that has the least memory.

    Any worker may come to run a job, so it must fit into each of them. While none is
    there, the model's own limit holds.
    """

    def __init__(self, queue: JobQueue, card: ModelCard) -> None:
        self._queue = queue
        self._card = card
        self._live = card
        self._known_at_s = float("-inf")
        self._asking = asyncio.Lock()

    async def get(self) -> ModelCard:
        """Return it; while Redis is away, as it was last known."""
        clock = asyncio.get_running_loop().time
        async with self._asking:
            if clock() - self._known_at_s > MAX_AGE_S:
                with contextlib.suppress(Unavailable):
                    self._live = replace(self._card, max_context=await self._max_context())
                self._known_at_s = clock()
            return self._live

    async def _max_context(self) -> int:
        infos = [worker.info for worker in await self._queue.workers()]
        limits = [int(info["max_context"]) for info in infos if "max_context" in info]
        return min([self._card.max_context, *limits])
