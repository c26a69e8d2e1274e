"""The api's other methods, and what it does with requests and clients that are not well."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from scheduler_svc.api.server import SUBMIT
from scheduler_svc.api.statuses import StatusInterceptor
from scheduler_svc.queue import JobQueue, QueueLimits
from scheduler_svc.queue.embedded import EmbeddedRedis
from scheduler_svc.text.model_card import ModelCard
from stepserve.protocol import inference_rpc as rpc
from stepserve.protocol import inference_wire as wire
from stepserve.protocol.channel import channel_options
from stepserve.protocol.inference import JobInfo, JobState
from stepserve.protocol.inference_wire import decode_event
from stepserve.protocol.job import Finish
from tests.scheduler_svc.api.served import Served, message, serving
from tests.scheduler_svc.frontend.test_validate import SECRET, WRONG
from tests.scheduler_svc.text.checkpoints import MAX_CONTEXT

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def submit(stub: Any, **payload: Any) -> wire.SubmitResponse:
    return await stub.Submit(message({"prompt": "Once", **payload}))


async def get(stub: Any, job_id: str) -> JobInfo:
    return wire.decode_job(await stub.GetJob(wire.GetJobRequest(job_id=job_id)))


async def is_state(stub: Any, job_id: str, state: JobState) -> bool:
    return (await get(stub, job_id)).state == state


async def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


async def test_a_job_is_told_about_from_queue_to_end(served: Served, stub: Any) -> None:
    job_id = (await submit(stub, priority=3, tenant="ann", sampling={"n": 2})).job_id
    job = await get(stub, job_id)
    assert (job.state, job.priority, job.tenant) == ("queued", 3, "ann")
    assert (job.model, job.ended_s) == (served.card.name, 0.0)
    assert [output.num_tokens for output in job.outputs] == [0, 0]
    await served.lane.claim()
    await served.lane.commit(job_id, [1, 2], Finish("length"), index=1)
    job = await get(stub, job_id)
    assert job.state == "running"
    assert [output.finish for output in job.outputs] == [None, Finish("length")]
    await served.lane.commit(job_id, [3], Finish("error", "it broke"))
    job = await get(stub, job_id)
    assert (job.state, job.usage.completion_tokens) == ("ended", 3)
    assert job.outputs[0].finish == Finish("error", "it broke")
    assert job.ended_s >= job.arrival_s > 0


async def test_jobs_are_listed_newest_first(served: Served, stub: Any) -> None:
    ids = [(await submit(stub, tenant="ab"[i % 2])).job_id for i in range(4)]
    claimed = (await served.lane.claim()).spec.job_id

    async def listed(**fields: Any) -> list[str]:
        answer = await stub.ListJobs(wire.ListJobsRequest(**fields))
        return [job.job_id for job in answer.jobs]

    assert await listed() == ids[::-1]
    assert await listed(limit=2) == ids[:1:-1]
    assert await listed(tenant="b", model=served.card.name) == [ids[3], ids[1]]
    assert await listed(state=wire.encode_state("running")) == [claimed]
    assert set(await listed(state=wire.encode_state("queued"))) == set(ids) - {claimed}
    code, text = await refusal(stub.ListJobs(wire.ListJobsRequest(limit=1001)))
    assert (code, text[:7]) == (grpc.StatusCode.INVALID_ARGUMENT, "limit: ")
    first = await stub.ListJobs(wire.ListJobsRequest(limit=3))
    rest = await stub.ListJobs(wire.ListJobsRequest(page_token=first.next_page_token))
    assert [job.job_id for job in (*first.jobs, *rest.jobs)] == ids[::-1]
    assert rest.next_page_token == ""
    for wrong in (
        wire.ListJobsRequest(page_token="x"),
        wire.ListJobsRequest(page_token="é" * 2000),
        wire.ListJobsRequest(page_token=first.next_page_token, tenant="a"),
    ):
        code, text = await refusal(stub.ListJobs(wrong))
        assert (code, text[:12]) == (grpc.StatusCode.INVALID_ARGUMENT, "page_token: ")
    code, _ = await refusal(stub.ListJobs(wire.ListJobsRequest(model="other")))
    assert code == grpc.StatusCode.NOT_FOUND


async def test_a_job_says_all_that_a_repeat_takes(served: Served, stub: Any) -> None:
    asked = {"sampling": {"max_tokens": 7, "stop": ["x"], "logit_bias": {"5": 1}}, "deadline_s": 60}
    job = await get(stub, (await submit(stub, **asked)).job_id)
    spec = (await served.lane.claim()).spec
    assert job.sampling == spec.sampling
    assert (job.deadline_s, job.arrival_s) == (spec.deadline_s, spec.arrival_s)
    waited = (await get(stub, spec.job_id)).queued_s
    assert waited is not None
    assert 0 <= (job.queued_s or 0) <= waited


async def test_a_deleted_job_is_gone_with_its_output(served: Served, stub: Any) -> None:
    """Whatever it was about; its lane and its followers hear of it."""
    queued, running, ended = [
        (await submit(stub, idempotency_key=f"k{i}")).job_id for i in range(3)
    ][::-1]
    for _ in range(2):
        await served.lane.claim()
    await served.lane.commit(ended, [1], Finish("length"))
    await served.lane.commit(running, served.ids("ab"))
    following = stub.Attach(wire.AttachRequest(job_id=running))
    assert decode_event(await following.read()).text == "ab"
    for job_id in (queued, running, ended):
        await stub.DeleteJob(wire.DeleteJobRequest(job_id=job_id))
        for call in (
            stub.GetJob(wire.GetJobRequest(job_id=job_id)),
            stub.DeleteJob(wire.DeleteJobRequest(job_id=job_id)),
        ):
            assert (await refusal(call))[0] == grpc.StatusCode.NOT_FOUND
    # Its end, if there was time to tell of it, or that it is gone; no more of its text.
    with contextlib.suppress(grpc.aio.AioRpcError):
        last = decode_event(await following.read())
        assert (last.text, last.finish_reason) == ("", "cancelled")
    assert (await stub.ListJobs(wire.ListJobsRequest())).jobs == []
    assert not (await submit(stub, idempotency_key="k0")).existed


async def test_the_model_is_listed_with_its_workers_and_queue(served: Served, stub: Any) -> None:
    await submit(stub)
    [model] = wire.decode_models(await stub.ListModels(wire.ListModelsRequest()))
    assert (model.name, model.max_context) == (served.card.name, MAX_CONTEXT)
    assert model.vocab_size == served.card.vocab_size
    assert (model.num_workers, model.num_queued_jobs) == (1, 1)


async def test_a_cancelled_job_ends_its_stream_once(served: Served, stub: Any) -> None:
    job_id = (await submit(stub)).job_id
    call = aiter(stub.Attach(wire.AttachRequest(job_id=job_id)))
    await served.lane.claim()
    await served.lane.commit(job_id, served.ids("ab"))
    await anext(call)
    cancelled = wire.decode_job(await stub.CancelJob(wire.CancelJobRequest(job_id=job_id)))
    assert cancelled.state == "ended"
    last = decode_event(await anext(call))
    assert (last.finish_reason, last.usage is not None) == ("cancelled", True)
    again = wire.decode_job(await stub.CancelJob(wire.CancelJobRequest(job_id=job_id)))
    assert again == cancelled


@pytest.mark.parametrize("job_id", ["", "nobody", "x" * 300, "a\0b"])
async def test_an_unknown_job_is_not_found(stub: Any, job_id: str) -> None:
    for call in (
        stub.GetJob(wire.GetJobRequest(job_id=job_id)),
        stub.CancelJob(wire.CancelJobRequest(job_id=job_id)),
        stub.Attach(wire.AttachRequest(job_id=job_id)).read(),
    ):
        assert (await refusal(call))[0] == grpc.StatusCode.NOT_FOUND


async def test_a_full_queue_says_when_to_come_back(redis_url: str, card: ModelCard) -> None:
    limits = QueueLimits(max_queued_jobs=1)
    async with (
        serving(redis_url, card, limits=limits) as served,
        grpc.aio.insecure_channel(served.address) as channel,
    ):
        stub = rpc.InferenceStub(channel)
        await submit(stub)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await submit(stub)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        trailers = dict(caught.value.trailing_metadata() or ())
        assert int(trailers[wire.RETRY_AFTER_KEY]) > 0


async def test_nothing_is_kept_of_a_refused_request(served: Served, stub: Any) -> None:
    for payload, field in WRONG:
        for method in (stub.Submit, lambda request: stub.Generate(request).read()):
            code, text = await refusal(method(message(payload)))
            assert code == grpc.StatusCode.INVALID_ARGUMENT
            assert text.startswith(f"{field}: ")
    code, _ = await refusal(submit(stub, model="other"))
    assert code == grpc.StatusCode.NOT_FOUND
    assert await served.queue.num_queued() == 0
    assert await served.queue.jobs() == []


async def test_a_message_of_100_mb_is_refused_and_the_service_goes_on(
    served: Served, stub: Any
) -> None:
    code, _ = await refusal(stub.Submit(wire.SubmitRequest(prompt="x" * 100_000_000)))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await submit(stub)).job_id
    assert await served.queue.num_queued() == 1


async def test_prompts_and_outputs_are_not_logged(
    served: Served, stub: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    messages = [{"role": "user", "content": SECRET}]
    await submit(stub, prompt="", messages=messages)
    await refusal(submit(stub, prompt=SECRET, sampling={"n": 99}))
    call = aiter(stub.Generate(message({"prompt": SECRET})))
    await anext(call)
    for _ in range(2):
        job_id = (await served.lane.claim()).spec.job_id
        await served.lane.commit(job_id, served.ids(SECRET), Finish("length"))
    assert decode_event(await anext(call)).text == SECRET
    assert SECRET not in caplog.text
    assert str(served.ids(SECRET))[1:-1] not in caplog.text


class Broken(rpc.InferenceServicer):
    """Fails as a bug of ours would, with the request in its message."""

    async def Submit(self, request: wire.SubmitRequest, _context: Any) -> None:
        raise ValueError(f"can't digest {request.prompt}")


async def test_a_bug_is_internal_and_its_message_stays_here(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = grpc.aio.server(interceptors=[StatusInterceptor()])
    rpc.add_InferenceServicer_to_server(Broken(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = rpc.InferenceStub(channel)
        code, text = await refusal(stub.Submit(wire.SubmitRequest(prompt=SECRET)))
    await server.stop(None)
    assert code == grpc.StatusCode.INTERNAL
    assert SECRET not in text
    assert SECRET not in caplog.text
    assert "ValueError" in caplog.text
    assert "test_service.py" in caplog.text


async def test_a_client_that_goes_away_cancels_its_job_if_it_said_so(
    served: Served, stub: Any
) -> None:
    job_ids = {}
    for flag in (True, False):
        request = message({"prompt": "Once", "cancel_on_disconnect": flag})
        call = stub.Generate(request)
        job_ids[flag] = decode_event(await call.read()).job_id
        call.cancel()
    await served.until(lambda: is_state(stub, job_ids[True], "ended"))
    finish = (await get(stub, job_ids[True])).outputs[0].finish
    assert finish == Finish("cancelled", "its client went away")
    assert (await get(stub, job_ids[False])).state == "queued"


async def test_a_client_that_comes_back_in_time_keeps_its_job(
    redis_url: str, card: ModelCard
) -> None:
    async with (
        serving(redis_url, card, grace_s=3600.0) as served,
        grpc.aio.insecure_channel(served.address) as channel,
    ):
        stub, absence = rpc.InferenceStub(channel), served.api.front_ends.of("").absence  # type: ignore[union-attr]

        async def one_is_away() -> bool:
            return absence.num_away == 1

        async def none_is_away() -> bool:
            return absence.num_away == 0

        request = message({"prompt": "Once", "cancel_on_disconnect": True})
        call = stub.Generate(request)
        job_id = decode_event(await call.read()).job_id
        call.cancel()
        await served.until(one_is_away)
        back = stub.Attach(wire.AttachRequest(job_id=job_id))
        reading = asyncio.create_task(back.read())
        await served.until(none_is_away)
        reading.cancel()
        back.cancel()
        await served.until(one_is_away)
        await served.stop()
        assert absence.num_away == 0, "a process that stops cancels nothing"
        job = await served.queue.job(job_id)
        assert job is not None
        assert job.state == "queued"


async def test_reflection_names_the_service(served: Served) -> None:
    async with grpc.aio.insecure_channel(served.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        answer = await stub.ServerReflectionInfo(iter([request])).read()
    names = {service.name for service in answer.list_services_response.service}
    assert names >= {"stepserve.v1.Inference", "grpc.health.v1.Health"}


async def test_health_tells_of_inference_and_of_submits(served: Served) -> None:
    async with grpc.aio.insecure_channel(served.address) as channel:
        stub, health = rpc.InferenceStub(channel), health_pb2_grpc.HealthStub(channel)

        async def status(name: str) -> int:
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            return int(answer.status)

        async def computes(expected: int) -> bool:
            return await status(wire.SERVICE_NAME) == expected

        await served.until(lambda: computes(SERVING))
        await served.lane.leave()
        await served.until(lambda: computes(NOT_SERVING))
        assert [await status(SUBMIT), await status("")] == [SERVING, SERVING]
        assert (await submit(stub)).job_id, "it waits for a worker"


@pytest.fixture
async def mortal(
    tmp_path: Path, card: ModelCard, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[EmbeddedRedis, Served]]:
    """A service with a Redis of its own, to be killed."""
    monkeypatch.delenv("STEPSERVE_REDIS_URL", raising=False)
    redis = EmbeddedRedis.start(tmp_path, "local")
    async with serving(redis.url, replace(card, name=f"m-{uuid.uuid4().hex[:6]}")) as served:
        yield redis, served
    redis.stop()


async def test_while_redis_is_away_it_is_unavailable_and_streams_wait(
    mortal: tuple[EmbeddedRedis, Served], tmp_path: Path
) -> None:
    redis, served = mortal
    async with grpc.aio.insecure_channel(served.address, options=channel_options()) as channel:
        stub, health = rpc.InferenceStub(channel), health_pb2_grpc.HealthStub(channel)

        async def health_is(status: int, name: str = wire.SERVICE_NAME) -> bool:
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            return bool(answer.status == status)

        await served.until(lambda: health_is(SERVING))
        job_id = (await submit(stub)).job_id
        await served.lane.claim()
        call = aiter(stub.Attach(wire.AttachRequest(job_id=job_id)))
        await served.lane.commit(job_id, served.ids("a dog"))
        assert decode_event(await anext(call)).text == "a dog"
        redis.stop()
        assert (await refusal(submit(stub)))[0] == grpc.StatusCode.UNAVAILABLE
        await served.until(lambda: health_is(NOT_SERVING))
        assert not await health_is(SERVING, SUBMIT)
        assert await health_is(SERVING, ""), "it is alive all the same"
        again = EmbeddedRedis.start(tmp_path, "local")
        try:
            await served.until(lambda: health_is(SERVING))
            await served.lane.commit(job_id, served.ids(" ran"), Finish("length"))
            assert decode_event(await anext(call)).text == " ran"
        finally:
            again.stop()


async def test_a_job_that_is_followed_on_another_replica_goes_on(
    redis_url: str, card: ModelCard
) -> None:
    async with (
        serving(redis_url, card, grace_s=0.1) as first,
        JobQueue(redis_url, card.name) as queue,
        Served(queue, card, first.lane, 0.1) as second,
        grpc.aio.insecure_channel(first.address) as one,
        grpc.aio.insecure_channel(second.address) as two,
    ):
        asked = message({"prompt": "Once", "cancel_on_disconnect": True})
        call = rpc.InferenceStub(one).Generate(asked)
        job_id = decode_event(await call.read()).job_id
        there = rpc.InferenceStub(two)
        following = there.Attach(wire.AttachRequest(job_id=job_id))
        await first.lane.claim()
        await first.lane.commit(job_id, first.ids("a dog"))
        assert decode_event(await following.read()).text == "a dog"
        call.cancel()

        async def is_noticed() -> bool:
            absence = first.api.front_ends.of("").absence  # type: ignore[union-attr]
            return not absence.num_away and not absence._num_streams

        await first.until(is_noticed)
        assert (await get(there, job_id)).state == "running"
        following.cancel()
        await first.until(lambda: is_state(there, job_id, "ended"))
