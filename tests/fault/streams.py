"""What clients see of a fault: how long each stream stood still, by their own clocks."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import pairwise

from stepserve import AsyncClient, SamplingParams
from tests.fault.service import MAX_CONTEXT

# What was on its way when the fault struck may come so much later.
IN_FLIGHT_S = 0.3
NUM_PROMPTS = 3


@dataclass
class Stream:
    """One job and when its tokens came."""

    job_id: str
    prompt: int
    token_ids: list[int] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)

    async def follow(self, client: AsyncClient) -> None:
        async for event in client.attach(self.job_id):
            assert event.offset == len(self.token_ids) or not event.token_ids, "gap or repeat"
            assert event.finish is None or event.finish.reason == "cancelled", event.finish
            self.token_ids += event.token_ids
            if event.token_ids:
                self.times_s.append(time.monotonic())

    def stall_s(self, since_s: float) -> float:
        """The longest time without a token, from the last one before ``since_s`` on."""
        first = max(0, sum(at < since_s for at in self.times_s) - 1)
        times = self.times_s[first:]
        return max(after - before for before, after in pairwise(times))


@dataclass
class Streams:
    """Jobs that go on until the end of the block."""

    streams: list[Stream]

    async def flow(self, since_s: float = 0.0, count: int = 10) -> None:
        """Wait until every stream has had so many events later than ``since_s``."""
        while any(sum(at > since_s for at in s.times_s) < count for s in self.streams):
            await asyncio.sleep(0.02)

    async def stalls_s(self, since_s: float) -> list[float]:
        """How long each stood still for the fault at ``since_s``, once all flow again."""
        await self.flow(since_s + IN_FLIGHT_S)
        return sorted(stream.stall_s(since_s) for stream in self.streams)

    def check_texts(self) -> None:
        """Equal prompts have equal outputs, wherever and however often they were computed."""
        for prompt in range(NUM_PROMPTS):
            outputs = [s.token_ids for s in self.streams if s.prompt == prompt]
            length = min(map(len, outputs))
            assert length > 0
            assert len({tuple(output[:length]) for output in outputs}) == 1


@contextlib.asynccontextmanager
async def flowing(target: str, count: int) -> AsyncIterator[Streams]:
    """Submit ``count`` long jobs and follow them at ``target``; cancel them in the end."""
    sampling = SamplingParams(max_tokens=MAX_CONTEXT - 64, temperature=0.0, ignore_eos=True)
    async with AsyncClient(target) as client, asyncio.TaskGroup() as group:
        streams = []
        for i in range(count):
            prompt = i % NUM_PROMPTS
            # A tenant each: none finds its beginning in another's blocks.
            job_id = await client.submit(
                prompt_token_ids=range(1, 30 + prompt), sampling=sampling, tenant=f"t{i}"
            )
            streams.append(Stream(job_id, prompt))
        for stream in streams:
            group.create_task(stream.follow(client))
        try:
            yield Streams(streams)
        finally:
            for stream in streams:
                await client.cancel(stream.job_id)
