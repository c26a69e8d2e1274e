"""A scheduler at its start: it waits for Redis, and sees that Redis keeps what it promises."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from redis import Redis
from redis.crc import key_slot

from scheduler_svc.api.server import SUBMIT, ApiServer
from scheduler_svc.queue import EmbeddedRedis, JobQueue, QueueLimits
from scheduler_svc.queue.keys import Keys
from scheduler_svc.server import Running, _prepare, redis_url, run, scheduler
from scheduler_svc.settings import SchedulerSettings
from stepserve import AsyncClient, Unavailable
from stepserve.client.retry import RetryPolicy
from stepserve.protocol.choices import Durability
from stepserve.protocol.errors import StepserveError
from stepserve.protocol.inference_wire import SERVICE_NAME
from tests.scheduler_svc.queue.servers import NUM_SLOTS, servers
from tests.scheduler_svc.text.checkpoints import write_checkpoint

WAIT_S = 20.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("start") / "tiny")


def settings(model: Path, url: str, **more: Any) -> SchedulerSettings:
    return SchedulerSettings(model=str(model), redis_url=url, port=0, **more)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def starting(chosen: SchedulerSettings) -> AsyncIterator[asyncio.Future[Running]]:
    """A scheduler on its way; what is yielded is done when it runs."""
    stop = asyncio.Event()
    ready: asyncio.Future[Running] = asyncio.get_running_loop().create_future()

    async def serve() -> None:
        async with scheduler(chosen, stop) as running:
            ready.set_result(running)
            await stop.wait()

    task = asyncio.create_task(serve())
    try:
        yield ready
    finally:
        stop.set()
        await asyncio.gather(task, return_exceptions=True)


async def test_it_waits_for_redis_and_says_so(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"unix://:secret@{tmp_path}/redis.sock"
    async with starting(settings(model, url)) as ready:
        await until(lambda: "waiting for Redis" in caplog.text)
        assert "secret" not in caplog.text
        assert not ready.done()
        with await asyncio.to_thread(EmbeddedRedis.start, tmp_path) as redis:
            with Redis.from_url(redis.url) as client:
                client.config_set("requirepass", "secret")
            async with asyncio.timeout(WAIT_S):
                running = await ready
            async with AsyncClient(running.address) as client:
                assert (await client.submit("a")).startswith("tiny")
    assert caplog.text.count("waiting for Redis") <= 3, "not again and again"


async def test_while_it_waits_it_is_alive_but_not_ready(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses: list[str] = []
    start = ApiServer.start

    async def noted(*args: Any) -> str:
        addresses.append(await start(*args))
        return addresses[0]

    monkeypatch.setattr(ApiServer, "start", noted)
    async with starting(settings(model, f"unix://{tmp_path}/redis.sock")):
        await until(lambda: "waiting for Redis" in caplog.text)
        await check_away(addresses[0])


async def check_away(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name, status in (
            ("", "SERVING"),
            (SUBMIT, "NOT_SERVING"),
            (SERVICE_NAME, "NOT_SERVING"),
        ):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.ServingStatus.Value(status)
        async with AsyncClient(address, RetryPolicy(patience_s=0.0)) as client:
            with pytest.raises(Unavailable):
                await client.submit("a")


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"appendonly": "no"}, "appendonly no"),
        ({"maxmemory-policy": "allkeys-lru"}, "maxmemory-policy allkeys-lru"),
        ({"appendfsync": "everysec"}, "appendfsync everysec"),
    ],
)
async def test_what_redis_does_not_keep_is_said_or_refused(
    model: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    config: dict[str, str],
    told: str,
) -> None:
    with EmbeddedRedis.start(tmp_path, "fsync") as redis:
        with Redis.from_url(redis.url) as client:
            for name, value in config.items():
                client.config_set(name, value)
        with pytest.raises(StepserveError, match=told):
            async with scheduler(settings(model, redis.url, durability="fsync")):
                pass
        with caplog.at_level(logging.WARNING):
            async with scheduler(settings(model, redis.url)):
                pass
        assert (told in caplog.text) == ("appendfsync" not in config)


async def test_in_a_cluster_each_model_s_server_is_looked_at(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keeps = ("appendonly yes", "appendfsync always")
    of_first = {name: key_slot(Keys(name).queue.encode()) < NUM_SLOTS // 2 for name in "abcdef"}
    kept = [name for name, is_first in of_first.items() if is_first][:1]
    lost = [name for name, is_first in of_first.items() if not is_first][:2]

    async def prepare(durability: Durability, *names: str) -> None:
        async with AsyncExitStack() as stack:
            each = [JobQueue(url, name, QueueLimits(durability=durability)) for name in names]
            queues = [await stack.enter_async_context(queue) for queue in each]
            await _prepare(queues, settings(model, url), asyncio.Event())

    with servers(tmp_path) as some:
        first, _ = await asyncio.to_thread(some.shared_cluster, keeps, ["appendonly no"])
        url = f"redis+cluster://127.0.0.1:{first.port}"
        await prepare("fsync", *kept)
        with pytest.raises(StepserveError, match="appendonly no"):
            await prepare("fsync", *kept, *lost)
        assert "may lose accepted jobs" not in caplog.text
        await prepare("local", *kept, *lost)
    assert caplog.text.count("may lose accepted jobs") == 1, "a server is told of once"


async def test_a_redis_that_keeps_everything_is_not_warned_of(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with EmbeddedRedis.start(tmp_path, "fsync") as redis, caplog.at_level(logging.WARNING):
        async with scheduler(settings(model, redis.url, durability="fsync")) as running:
            with Redis.from_url(redis.url) as client:
                before = client.info("persistence")["aof_last_rewrite_time_sec"]
                assert before >= 0 or client.info("persistence")["aof_rewrite_in_progress"]
            await running.queue.check_server()
    assert "Redis" not in caplog.text


async def test_a_file_that_was_not_written_anew_since_the_start_is(
    model: Path, tmp_path: Path
) -> None:
    with EmbeddedRedis.start(tmp_path) as redis, Redis.from_url(redis.url) as client:
        assert client.info("persistence")["aof_last_rewrite_time_sec"] == -1
        async with scheduler(settings(model, redis.url)):
            async with asyncio.timeout(WAIT_S):
                while client.info("persistence")["aof_last_rewrite_time_sec"] < 0:
                    await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "url",
    [
        "host:6379",
        "http://host",
        "redis://:se/cret@host:6379",
        "redis://:sec?ret@h:port",
        "redis://:p@cret/w#rd@host:6379",
        "redis://u:1?cret@host",
        "redis://:p@cret#@host",
    ],
)
def test_an_address_that_is_none_is_one_line_without_a_password(
    model: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(settings(model, url)) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("stepserve scheduler: the address of Redis is no redis://")
    assert "cret" not in told


def test_no_address_says_how_to_give_one(model: Path) -> None:
    with pytest.raises(StepserveError, match="--redis-url"):
        redis_url(settings(model, ""))


def test_a_level_that_is_none_is_refused(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STEPSERVE_LOG_LEVEL", "LOUD")
    assert run(settings(model, "redis://localhost:1")) == 1
    assert "STEPSERVE_LOG_LEVEL is 'LOUD', not one of" in capsys.readouterr().err


async def test_a_process_of_lanes_serves_its_health_where_it_is_told_a_port(
    model: Path, redis_url: str
) -> None:
    chosen = {"redis_url": redis_url, "model": str(model), "roles": "lane"}
    async with scheduler(SchedulerSettings(**chosen, port=0)) as running:
        async with grpc.aio.insecure_channel(running.address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            answer = await stub.Check(health_pb2.HealthCheckRequest())
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        taken = int(running.address.rpartition(":")[2])
        with pytest.raises(StepserveError, match="is it in use"):
            async with scheduler(SchedulerSettings(**chosen, port=taken)):
                pass
    async with scheduler(SchedulerSettings(**chosen)) as running:
        assert running.address == ""
