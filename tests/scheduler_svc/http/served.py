"""A real HTTP server over a real queue; the lane's part is played by the test, token by token."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
from openai import AsyncOpenAI

from scheduler_svc.frontend.front_ends import FrontEnds
from scheduler_svc.http.server import HttpServer
from scheduler_svc.queue import JobQueue, QueueLimits
from scheduler_svc.text.model_card import ModelCard
from stepserve.protocol.job import ClaimedJob, Finish
from stepserve.protocol.step import TokenLogprobs
from tests.scheduler_svc.api.served import Lane, Served, front_ends_of

__all__ = ["HttpServed", "events_of", "http_serving"]


@dataclass
class HttpServed(Served):
    """The front end over HTTP alone, and a client of it."""

    server: HttpServer | None = None
    front_end: FrontEnds | None = None
    client: httpx2.AsyncClient | None = None
    running: asyncio.Task[None] | None = None

    async def start(self, host: str = "127.0.0.1") -> None:
        port = int(self.address.rpartition(":")[2] or 0)
        self.front_end = front_ends_of(self.queue, self.card, self.settings())
        self.running = asyncio.create_task(self.front_end.run(_told))
        self.server = HttpServer(self.front_end, tls=self.tls)
        self.address = await self.server.start(host, port)
        self.client = httpx2.AsyncClient(base_url=f"http://{self.address}", timeout=20)

    async def stop(self) -> None:
        if self.front_end is not None and self.server is not None and self.running is not None:
            await self.front_end.close()
            await self.server.stop()
            self.running.cancel()
            await asyncio.gather(self.running, return_exceptions=True)
        if self.client is not None:
            await self.client.aclose()

    @property
    def http(self) -> httpx2.AsyncClient:
        assert self.client is not None
        return self.client

    async def post(self, path: str, body: Any, **headers: str) -> httpx2.Response:
        """Post JSON; an underscore in a header's name is a hyphen."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.post(path, content=json.dumps(body), headers=named)

    def openai(self, **options: Any) -> AsyncOpenAI:
        key = {"api_key": "none", **options}
        return AsyncOpenAI(base_url=f"http://{self.address}/v1", **key)

    async def say(
        self,
        text: str,
        reason: str = "stop",
        chunk: int = 1,
        logprobs: Callable[[int], TokenLogprobs] | None = None,
    ) -> ClaimedJob:
        """Take the next job and answer it with a text, ``chunk`` tokens a step."""
        job = await self.lane.claim()
        await self.say_in(job, text, reason, chunk, logprobs)
        return job

    async def say_in(
        self,
        job: ClaimedJob,
        text: str,
        reason: str = "stop",
        chunk: int = 1,
        logprobs: Callable[[int], TokenLogprobs] | None = None,
    ) -> None:
        for index in range(job.spec.sampling.n):
            ids = self.ids(text)
            for at in range(0, len(ids), chunk):
                some = ids[at : at + chunk]
                told = [logprobs(i) for i in some] if logprobs else ()
                await self.lane.commit(job.spec.job_id, some, index=index, logprobs=told)
            await self.lane.commit(job.spec.job_id, [], Finish(reason), index=index)


async def _told(_now: object) -> None:
    pass


@asynccontextmanager
async def http_serving(
    redis_url: str,
    card: ModelCard,
    grace_s: float = 5.0,
    limits: QueueLimits | None = None,
    **more: Any,
) -> AsyncIterator[HttpServed]:
    """Serve ``card`` on a free port for the time of the block."""
    async with JobQueue(redis_url, card.name, limits) as queue:
        await queue.adopt_order()
        lease = await queue.acquire("worker", "test", ttl_ms=60_000)
        assert lease is not None
        async with HttpServed(queue, card, Lane(queue, lease), grace_s, **more) as served:
            yield served


def events_of(text: str) -> Sequence[Any]:
    """Return the data of a whole stream's events, parsed but for the last mark."""
    found = []
    for block in text.split("\n\n"):
        data = [line[6:] for line in block.split("\n") if line.startswith("data: ")]
        if data:
            found.append(data[0] if data[0] == "[DONE]" else json.loads(data[0]))
    return found
