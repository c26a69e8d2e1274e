"""Bytes that are no request, calls by the thousand, and logs that can't be followed."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from redis import Redis

from scheduler_svc.frontend import front_end, live_card
from scheduler_svc.queue.keys import Keys
from scheduler_svc.text.model_card import ModelCard
from stepserve.protocol import inference_rpc as rpc
from stepserve.protocol import inference_wire as wire
from stepserve.protocol.job import Finish
from tests.scheduler_svc.api.served import WAIT_S, Served, break_bell, message, serving
from tests.scheduler_svc.api.test_service import NOT_SERVING, SERVING, refusal, submit

NUM_CALLS = 3000


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x0a\x02\xff\xfe", b"\x0a\x7fshort"])
@pytest.mark.parametrize("method", ["Submit", "Generate", "Attach", "GetJob", "CancelJob"])
async def test_bytes_that_are_no_message_are_the_clients_mistake(
    served: Served, method: str, data: bytes
) -> None:
    async with grpc.aio.insecure_channel(served.address) as channel:
        is_stream = method in ("Generate", "Attach")
        kind = channel.unary_stream if is_stream else channel.unary_unary
        call = kind(f"/{wire.SERVICE_NAME}/{method}")(data)
        code, text = await refusal(call.read() if is_stream else call)
    assert (code, text[:9]) == (grpc.StatusCode.INVALID_ARGUMENT, "request: ")


async def test_a_rush_of_calls_is_answered(stub: Any) -> None:
    """By default gRPC cancels some when a thousand wait."""

    async def call() -> grpc.StatusCode:
        return (await refusal(stub.GetJob(wire.GetJobRequest(job_id=""))))[0]

    codes = Counter(await asyncio.gather(*(call() for _ in range(NUM_CALLS))))
    assert codes == {grpc.StatusCode.NOT_FOUND: NUM_CALLS}


async def test_more_submits_than_can_wait_are_told_when_to_come_back(
    redis_url: str, card: ModelCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front_end, "MAX_SUBMITS_AT_ONCE", 1)
    monkeypatch.setattr(front_end, "MAX_WAITING_SUBMITS", 1)
    async with (
        serving(redis_url, card) as served,
        grpc.aio.insecure_channel(served.address) as channel,
    ):
        stub = rpc.InferenceStub(channel)
        sent = [asyncio.ensure_future(submit(stub)) for _ in range(200)]
        answers = await asyncio.gather(*sent, return_exceptions=True)
        refused = [a for a in answers if isinstance(a, grpc.aio.AioRpcError)]
        assert 0 < len(refused) < len(sent)
        for error in refused:
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert int(dict(error.trailing_metadata() or ())[wire.RETRY_AFTER_KEY]) > 0
        assert await served.queue.num_queued() == len(sent) - len(refused)


async def test_what_no_live_worker_can_hold_is_refused(
    served: Served, stub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_card, "MAX_AGE_S", -1.0)
    roomy = await served.queue.acquire("roomy", "test", 60_000, {"max_context": "99999"})
    small = await served.queue.acquire("small", "test", 60_000, {"max_context": "32"})
    assert roomy
    assert small

    async def max_context() -> int:
        answer = await stub.ListModels(wire.ListModelsRequest())
        return wire.decode_models(answer)[0].max_context

    async def send(num_prompt_tokens: int, **sampling: int) -> Any:
        ids = [1] * num_prompt_tokens
        return await submit(stub, prompt="", prompt_token_ids=ids, sampling=sampling)

    assert await max_context() == 32
    code, text = await refusal(send(32))
    assert (code, text[:16]) == (grpc.StatusCode.INVALID_ARGUMENT, "prompt_token_ids")
    code, text = await refusal(send(30, max_tokens=3))
    assert (code, text[:19]) == (grpc.StatusCode.INVALID_ARGUMENT, "sampling.max_tokens")
    await send(30)
    assert (await served.lane.claim()).spec.sampling.max_tokens == 2
    await served.queue.release(small)
    assert await max_context() == 99999
    await send(served.card.max_context)
    await served.queue.release(roomy)
    assert await max_context() == served.card.max_context
    code, text = await refusal(send(served.card.max_context))
    assert (code, text[:16]) == (grpc.StatusCode.INVALID_ARGUMENT, "prompt_token_ids")


async def test_workers_are_not_asked_for_with_every_job(
    served: Served, stub: Any, redis_url: str
) -> None:
    with Redis.from_url(redis_url) as redis, redis.monitor() as monitor:
        for _ in range(20):
            await submit(stub)
        redis.echo("the end")
        commands = []
        for event in iter(monitor.next_command, None):
            if event["command"] == "ECHO the end":
                break
            if event["client_type"] != "lua" and served.card.name in event["command"]:
                commands.append(event["command"].split(" ")[0])
    told = Counter(commands)
    # Somebody looks once a second, whoever submits.
    assert (told["EVALSHA"], told["ZRANGE"] < 20, told["HMGET"] < 20) == (20, True, True)


async def test_a_record_that_cannot_be_read_ends_its_own_stream_only(
    served: Served, stub: Any, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    ids = [(await submit(stub)).job_id for _ in range(2)]
    calls = [aiter(stub.Attach(wire.AttachRequest(job_id=job_id))) for job_id in ids]
    for job_id in ids:
        await served.lane.claim()
        await served.lane.commit(job_id, [1])
    for call in calls:
        await anext(call)
    with Redis.from_url(redis_url) as redis:
        redis.hset(Keys(served.card.name).job(ids[0]), "f0", '{"what": "is this"}')
    await served.lane.commit(ids[1], [2], Finish("length"))
    code, text = await refusal(anext(calls[0]))
    assert (code, "what" in text) == (grpc.StatusCode.INTERNAL, False)
    assert wire.decode_event(await anext(calls[1])).finish_reason == "length"
    listed = await stub.ListJobs(wire.ListJobsRequest())
    assert [job.job_id for job in listed.jobs] == ids[1:]
    assert f"job {ids[0]} cannot be listed" in caplog.text


@pytest.fixture
async def terminated() -> AsyncIterator[asyncio.Event]:
    """Set once the process is asked to end."""
    terminated, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, terminated.set)
    yield terminated
    loop.remove_signal_handler(signal.SIGTERM)


async def health_of(served: Served, name: str = "") -> int:
    async with grpc.aio.insecure_channel(served.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        return int((await health.Check(health_pb2.HealthCheckRequest(service=name))).status)


async def test_an_api_that_can_follow_no_logs_ends_its_process(
    served: Served, stub: Any, redis_url: str, terminated: asyncio.Event
) -> None:
    job_id = (await submit(stub)).job_id
    with Redis.from_url(redis_url) as redis:
        break_bell(redis, Keys(served.card.name))
    async with asyncio.timeout(WAIT_S):
        await terminated.wait()
    code, _ = await refusal(stub.Attach(wire.AttachRequest(job_id=job_id)).read())
    assert code == grpc.StatusCode.INTERNAL
    assert await health_of(served) == NOT_SERVING


async def test_an_api_that_stops_following_logs_for_no_reason_ends_its_process_too(
    served: Served, monkeypatch: pytest.MonkeyPatch, terminated: asyncio.Event
) -> None:
    async def nothing(_: front_end.FrontEnd, __: Any) -> None:
        """Return."""

    await served.stop()
    monkeypatch.setattr(front_end.FrontEnd, "run", nothing)
    await served.start()
    async with asyncio.timeout(WAIT_S):
        await terminated.wait()
    assert await health_of(served) == NOT_SERVING


async def test_a_lease_that_cannot_be_read_ends_no_process(
    served: Served,
    redis_url: str,
    caplog: pytest.LogCaptureFixture,
    terminated: asyncio.Event,
) -> None:
    assert await served.queue.acquire("another", "test", ttl_ms=60_000)
    with Redis.from_url(redis_url) as redis:
        redis.hset(Keys(served.card.name).lease("another"), "info", "not json")
        await served.stop()
        await served.start()

    async def is_serving() -> bool:
        return await health_of(served, wire.SERVICE_NAME) == SERVING

    await served.until(is_serving)
    assert "the lease of worker another cannot be read" in caplog.text
    assert not terminated.is_set()
    assert await health_of(served) == SERVING


async def test_an_ipv6_address_is_served(served: Served) -> None:
    await served.stop()
    await served.start("::1")
    assert served.address.startswith("[::1]:")
    async with grpc.aio.insecure_channel(served.address) as channel:
        request = message({"prompt": "Once"})
        assert (await rpc.InferenceStub(channel).Submit(request)).job_id
