"""A real api over a real queue; the lane's part is played by the test, token by token."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from redis import Redis

from scheduler_svc.access.guard import Guard
from scheduler_svc.api.server import ApiServer
from scheduler_svc.frontend.front_end import FrontEnd
from scheduler_svc.frontend.front_ends import FrontEnds
from scheduler_svc.queue import JobQueue, Lease, QueueLimits, RowKind
from scheduler_svc.queue.keys import Keys
from scheduler_svc.settings import ApiSettings
from scheduler_svc.text.model_card import ModelCard
from stepserve.protocol import inference_wire as wire
from stepserve.protocol.inference_json import request_from_json
from stepserve.protocol.job import ClaimedJob, CommitRow, Finish
from stepserve.protocol.step import TokenLogprobs
from stepserve.tls.server import ServerTls

WAIT_S = 10.0


class Lane:
    """Claims jobs and commits tokens as a lane does."""

    def __init__(self, queue: JobQueue, lease: Lease) -> None:
        self._queue = queue
        self._lease = lease
        self._lengths: dict[tuple[str, int], int] = {}

    async def leave(self) -> None:
        """Let go of the worker, as a lane does that found it hung."""
        await self._queue.release(self._lease)

    async def claim(self) -> ClaimedJob:
        """Wait for a job and take it."""
        async with asyncio.timeout(WAIT_S):
            while True:
                seen = self._queue.num_arrivals
                jobs = await self._queue.claim(self._lease, "fingerprint", 1)
                if jobs:
                    return jobs[0]
                await self._queue.wait_for_jobs(seen, 1.0)

    async def commit(
        self,
        job_id: str,
        token_ids: Sequence[int],
        finish: Finish | None = None,
        index: int = 0,
        logprobs: Sequence[TokenLogprobs] = (),
        num_cached: int | None = None,
    ) -> None:
        offset = self._lengths.get((job_id, index), 0)
        row = CommitRow(job_id, index, offset, token_ids, logprobs, finish)
        cached = {} if num_cached is None else {(job_id, index): num_cached}
        [answer] = await self._queue.commit(self._lease, [row], cached)
        assert answer.kind is RowKind.APPLIED
        self._lengths[job_id, index] = offset + len(token_ids)


def front_ends_of(queue: JobQueue, card: ModelCard, settings: ApiSettings) -> FrontEnds:
    """Those of one model."""
    return FrontEnds([FrontEnd(queue, card, settings)], Guard.of(settings.api_keys_file))


def break_bell(redis: Redis, keys: Keys) -> None:
    """Make reading the doorbell fail as only a bug could."""
    redis.delete(keys.bell)
    redis.set(keys.bell, "not a stream")
    redis.client_kill_filter(_type="normal", skipme=True)  # who waits does not look again


def message(payload: dict[str, Any]) -> wire.SubmitRequest:
    """Return a request as a client sends it."""
    return wire.encode_request(request_from_json(payload))


@dataclass
class Served:
    """An api that can be stopped and started again on the same port."""

    queue: JobQueue
    card: ModelCard
    lane: Lane
    grace_s: float = 5.0
    stream_window_ms: float = 0.0
    address: str = ""
    api: ApiServer | None = None
    keys_file: str = ""
    tls: ServerTls | None = None

    async def start(self, host: str = "127.0.0.1") -> None:
        port = int(self.address.rpartition(":")[2] or 0)
        settings = self.settings()
        self.api = ApiServer(front_ends_of(self.queue, self.card, settings), settings, self.tls)
        self.address = await self.api.start(host, port)

    def settings(self) -> ApiSettings:
        return ApiSettings(
            stream_window_ms=self.stream_window_ms,
            disconnect_grace_s=self.grace_s,
            reflection=True,
            api_keys_file=self.keys_file,
        )

    async def stop(self) -> None:
        if self.api is not None:
            await self.api.stop()
        self.api = None

    async def __aenter__(self) -> Served:
        await self.start()
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        """Wait until it holds."""
        async with asyncio.timeout(WAIT_S):
            while not await condition():
                await asyncio.sleep(0.01)

    def ids(self, text: str) -> list[int]:
        """Return the tokens of ``text`` alone."""
        assert self.card.tokenizer is not None
        return self.card.tokenizer.encode(text, add_special_tokens=False)


@asynccontextmanager
async def serving(
    redis_url: str,
    card: ModelCard,
    grace_s: float = 5.0,
    limits: QueueLimits | None = None,
    **more: Any,
) -> AsyncIterator[Served]:
    """Serve ``card`` on a free port for the time of the block."""
    async with JobQueue(redis_url, card.name, limits) as queue:
        await queue.adopt_order()
        lease = await queue.acquire("worker", "test", ttl_ms=60_000)
        assert lease is not None
        async with Served(queue, card, Lane(queue, lease), grace_s, **more) as served:
            yield served
