"""What needs Redis is refused at once while it is known to be away, or to be full."""

from __future__ import annotations

import asyncio
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from redis import Redis

from scheduler_svc.api.server import SUBMIT
from scheduler_svc.frontend import redis_watch
from scheduler_svc.queue.embedded import EmbeddedRedis
from scheduler_svc.text.model_card import ModelCard
from stepserve.protocol import inference_rpc as rpc
from stepserve.protocol import inference_wire as wire
from stepserve.protocol.job import Finish
from tests.scheduler_svc.api.served import Served, message, serving
from tests.scheduler_svc.queue.proxy import LossyProxy


class Client:
    """Submits, and asks how the service is."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = rpc.InferenceStub(channel)
        self._health = health_pb2_grpc.HealthStub(channel)

    async def submit(self, **payload: Any) -> str:
        request = message({"prompt": "Once", **payload})
        return str((await self._stub.Submit(request)).job_id)

    async def refusal(self) -> tuple[grpc.StatusCode, int]:
        """How a submit is refused, and when to come back, in ms."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.submit()
        trailers = dict(caught.value.trailing_metadata() or ())
        return caught.value.code(), int(trailers[wire.RETRY_AFTER_KEY])

    async def is_ready(self) -> bool:
        request = health_pb2.HealthCheckRequest(service=SUBMIT)
        answer = await self._health.Check(request)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def is_not_ready(self) -> bool:
        return not await self.is_ready()


@pytest.fixture
def redis(tmp_path: Path) -> Any:
    with EmbeddedRedis.start(tmp_path) as redis:
        yield redis


@pytest.fixture
async def served(redis: EmbeddedRedis, card: ModelCard) -> AsyncIterator[Served]:
    async with serving(redis.url, replace(card, name=f"w-{uuid.uuid4().hex[:6]}")) as served:
        yield served


@pytest.fixture
async def client(served: Served) -> AsyncIterator[Client]:
    async with grpc.aio.insecure_channel(served.address) as channel:
        client = Client(channel)
        await served.until(client.is_ready)
        yield client


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_once_redis_is_known_to_be_away_a_refusal_is_quick(
    redis: EmbeddedRedis, served: Served, client: Client, how: signal.Signals
) -> None:
    assert redis.pid is not None
    os.kill(redis.pid, how)
    code, _ = await client.refusal()
    assert code == grpc.StatusCode.UNAVAILABLE
    took_s = []
    for _ in range(20):
        begun_s = time.monotonic()
        code, retry_after_ms = await client.refusal()
        took_s.append(time.monotonic() - begun_s)
        assert code == grpc.StatusCode.UNAVAILABLE
        assert retry_after_ms > 0
    # The goal; the machine may be busy at one of these moments.
    assert sorted(took_s)[10] < 0.05
    await served.until(client.is_not_ready)
    if how == signal.SIGSTOP:
        os.kill(redis.pid, signal.SIGCONT)
    else:
        await asyncio.to_thread(redis.ensure_running)
    await served.until(client.is_ready)
    assert await client.submit()


async def test_before_redis_is_full_no_job_is_taken_and_running_ones_go_on(
    redis: EmbeddedRedis, served: Served, client: Client
) -> None:
    job_id = await client.submit()
    await served.lane.claim()
    with Redis.from_url(redis.url) as filler:
        for number in range(1000):
            filler.set(f"something {number}", b"x" * 20_000)  # beside which buffers are small
    with Redis.from_url(redis.url) as plain:

        async def is_full() -> bool:
            # What is used changes by itself: buffers of connections come and go.
            plain.config_set("maxmemory", int(used_bytes(plain) / 0.97))
            return await client.is_not_ready()

        await served.until(is_full)
        code, retry_after_ms = await client.refusal()
        assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert retry_after_ms > 0
        plain.config_set("maxmemory", int(used_bytes(plain) / 0.97))
        await served.lane.commit(job_id, [1, 2, 3], Finish("length"))
        plain.config_set("maxmemory", 10 * used_bytes(plain))
    await served.until(client.is_ready)
    assert await client.submit()


def used_bytes(client: Redis) -> int:
    memory = client.info("memory")
    return int(memory["used_memory"] - memory["mem_not_counted_for_evict"])


async def test_while_redis_is_slow_a_refusal_is_quick_and_running_jobs_go_on(
    redis_url: str, card: ModelCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_watch, "SLOW_S", 0.5)
    async with (
        LossyProxy(redis_url) as proxy,
        serving(proxy.url, replace(card, name=f"w-{uuid.uuid4().hex[:6]}")) as served,
        grpc.aio.insecure_channel(served.address) as channel,
    ):
        client = Client(channel)
        await served.until(client.is_ready)
        job_id = await client.submit()
        await served.lane.claim()
        proxy.delay_s = 0.7
        await served.until(client.is_not_ready)
        took_s = []
        for _ in range(20):
            begun_s = time.monotonic()
            code, retry_after_ms = await client.refusal()
            took_s.append(time.monotonic() - begun_s)
            assert (code, retry_after_ms > 0) == (grpc.StatusCode.UNAVAILABLE, True)
        assert sorted(took_s)[10] < 0.05
        await served.lane.commit(job_id, [1, 2, 3], Finish("length"))
        proxy.delay_s = 0.0
        await served.until(client.is_ready)
        assert await client.submit()
