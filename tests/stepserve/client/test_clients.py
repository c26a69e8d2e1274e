"""Both clients against a real api: what they return, raise, and survive."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import grpc
import pytest

from scheduler_svc.queue import QueueLimits
from scheduler_svc.text.model_card import ModelCard
from stepserve import (
    AsyncClient,
    CallOptions,
    ChatMessage,
    Client,
    Completion,
    Exhausted,
    InvalidRequest,
    NotFound,
    Output,
    Request,
    RetryPolicy,
    SamplingParams,
    StreamEvent,
    TimedOut,
    Unavailable,
    Usage,
)
from stepserve.protocol import inference_rpc as rpc
from stepserve.protocol import inference_wire as wire
from stepserve.protocol.job import Finish
from stepserve.protocol.step import TokenLogprobs
from tests.scheduler_svc.api.served import Served, serving
from tests.stepserve.client.conftest import Blocking

TEXT = "Ça déjà vu 🙂🙃 日本語! a small dog."
NO_PATIENCE = RetryPolicy(patience_s=0.0)


async def test_a_completion_has_all_of_the_output(served: Served, client: Any) -> None:
    sampling = SamplingParams(max_tokens=9, n=2, logprobs=0)
    completing = asyncio.create_task(client.complete("Once", sampling=sampling, tenant="ann"))
    spec = (await served.lane.claim()).spec
    assert (spec.tenant, spec.sampling.max_tokens) == ("ann", 9)
    ids = served.ids("a dog")
    logprobs = [TokenLogprobs(-1.0)] * len(ids)
    await served.lane.commit(spec.job_id, ids, Finish("stop", "why"), 1, logprobs)
    await served.lane.commit(spec.job_id, ids[:1], Finish("length"), 0, logprobs[:1])
    completion = await completing
    assert completion == Completion(
        spec.job_id,
        (
            Output(0, "a", tuple(ids[:1]), "length", "", (TokenLogprobs(-1.0),)),
            Output(1, "a dog", tuple(ids), "stop", "why", tuple(logprobs)),
        ),
        Usage(len(spec.prompt_token_ids), len(ids) + 1),
    )
    assert completion.text == "a"


async def test_every_kind_of_prompt_arrives(served: Served, client: Any) -> None:
    assert served.card.tokenizer is not None
    chat = [ChatMessage("user", "hi")]
    for job_id, text in (
        (await client.submit("Once"), "<s>Once"),
        (await client.submit(Request(prompt="Once", priority=1)), "<s>Once"),
        (await client.submit(prompt_token_ids=served.ids("ab")), "ab"),
        (await client.submit(messages=chat), "<s><|user|>hi<|assistant|>"),
    ):
        spec = (await served.lane.claim()).spec
        assert spec.job_id == job_id
        expected = served.card.tokenizer.encode(text, add_special_tokens=False)
        assert list(spec.prompt_token_ids) == expected


async def test_jobs_are_told_about_listed_and_cancelled(served: Served, client: Any) -> None:
    job_id = await client.submit("Once", tenant="ann")
    job = await client.get(job_id)
    assert (job.job_id, job.state, job.tenant) == (job_id, "queued", "ann")
    for listed in (await client.list(), await client.list("queued", "ann", 5)):
        assert [replace(each, queued_s=None) for each in listed] == [replace(job, queued_s=None)]
    assert await client.list("ended") == ()
    assert (await client.cancel(job_id)).outputs[0].finish == Finish("cancelled")
    assert [job.job_id for job in await client.list("ended")] == [job_id]
    [model] = await client.models()
    assert (model.name, model.num_workers) == (served.card.name, 1)


async def test_errors_say_whose_fault_it_is(client: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^sampling.n: must be") as caught:
        await client.submit("Once", sampling=SamplingParams(n=99))
    assert caught.value.field == "sampling.n"
    with pytest.raises(InvalidRequest, match="larger than max"):
        await client.submit("x" * 20_000_000)
    with pytest.raises(NotFound, match="'nobody' is not known"):
        await client.get("nobody")
    with pytest.raises(NotFound):
        async for _ in client.attach("nobody"):
            pass
    with pytest.raises(InvalidRequest):
        async for _ in client.generate(""):
            pass


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"sampling": SamplingParams(max_tokens=-1)}, "sampling.max_tokens"),
        ({"sampling": SamplingParams(stop="end")}, "sampling.stop"),
        ({"sampling": SamplingParams(logit_bias={-1: 1.0})}, "sampling.logit_bias"),
        ({"prompt_token_ids": [-1]}, "prompt_token_ids"),
        ({"messages": [ChatMessage("user", 3)]}, "messages[0].content"),  # type: ignore[arg-type]
        ({"priority": 2**40}, "priority"),
        ({"prompt": 3}, "prompt"),
    ],
)
async def test_what_does_not_fit_its_field_is_not_even_sent(
    client: Any, fields: Any, field: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await client.submit(**fields)
    assert caught.value.field == field


async def test_a_full_queue_says_when_to_come_back(redis_url: str, card: ModelCard) -> None:
    async with (
        serving(redis_url, card, limits=QueueLimits(max_queued_jobs=1)) as served,
        AsyncClient(served.address) as client,
    ):
        await client.submit("Once", idempotency_key="k")
        with pytest.raises(Exhausted) as caught:
            await client.submit("Once")
        assert caught.value.retry_after_ms > 0
        await client.submit("Once", idempotency_key="k")


async def test_a_stream_goes_on_when_the_service_comes_back(served: Served, client: Any) -> None:
    """Cut off again and again, between any two tokens: no gap, no repeat, the same text."""
    outputs: dict[int, list[int]] = {0: [], 1: []}
    texts = {0: "", 1: ""}
    ids = {0: served.ids(TEXT), 1: served.ids(TEXT)[::-1]}
    sampling = SamplingParams(n=2, stop=["dogs", "zz"])
    finishes = []

    async def follow() -> None:
        async for event in client.generate("Once", sampling=sampling):
            assert event.offset == len(outputs[event.index])
            outputs[event.index] += event.token_ids
            texts[event.index] += event.text
            finishes.extend([event.finish] if event.finish else [])

    async def has_shown(position: int) -> bool:
        return all(len(output) > position for output in outputs.values())

    following = asyncio.create_task(follow())
    job_id = (await served.lane.claim()).spec.job_id
    for position in range(len(ids[0])):
        for index in range(2):
            await served.lane.commit(job_id, [ids[index][position]], index=index)
        if position % 12 == 5:
            await served.until(lambda shown=position: has_shown(shown))
            await served.stop()
            await served.start()
    for index in range(2):
        await served.lane.commit(job_id, [], Finish("length"), index=index)
    await following
    assert served.card.tokenizer is not None
    assert outputs == ids
    assert texts == {index: served.card.tokenizer.decode(ids[index]) for index in ids}
    assert finishes == [Finish("length")] * 2


async def test_an_attachment_goes_on_at_its_own_offsets(served: Served, client: Any) -> None:
    """Where only the service knows how many outputs there are."""
    job_id = await client.submit("Once", sampling=SamplingParams(n=2))
    await served.lane.claim()
    for index in range(2):
        await served.lane.commit(job_id, [1, 2, 3, 4], index=index)
    seen: list[tuple[int, int, list[int]]] = []

    async def follow() -> None:
        async for event in client.attach(job_id, 2):
            seen.append((event.index, event.offset, list(event.token_ids)))

    async def has_two() -> bool:
        return len(seen) == 2

    following = asyncio.create_task(follow())
    await served.until(has_two)
    await served.stop()
    await served.lane.commit(job_id, [5], Finish("length"), index=1)
    await served.start()
    await served.lane.commit(job_id, [6], Finish("length"), index=0)
    await following
    assert sorted(seen) == [(0, 2, [3, 4]), (0, 4, [6]), (1, 2, [3, 4]), (1, 4, [5])]


async def test_what_is_asked_while_nobody_serves_waits_for_a_service(
    served: Served, client: Any
) -> None:
    await served.stop()
    submitting = asyncio.create_task(client.submit("Once"))
    completing = asyncio.create_task(client.complete("Twice"))
    await served.start()
    for _ in range(2):
        job_id = (await served.lane.claim()).spec.job_id
        await served.lane.commit(job_id, served.ids("ab"), Finish("length"))
    assert (await completing).text == "ab"
    assert (await client.get(await submitting)).state == "ended"
    assert len(await client.list()) == 2, "whatever was sent twice is one job"


async def test_a_result_is_waited_for_and_not_for_ever(served: Served, client: Any) -> None:
    job_id = await client.submit("Once")
    with pytest.raises(TimedOut):
        await client.result(job_id, timeout=0.05)
    with pytest.raises(TimeoutError):
        await client.result(job_id, 0)
    waiting = asyncio.create_task(client.result(job_id))
    await served.lane.claim()
    await served.lane.commit(job_id, served.ids("a dog"), Finish("length"))
    completion = await waiting
    assert (completion.text, completion.outputs[0].finish_reason) == ("a dog", "length")
    assert await client.result(job_id, 5.0) == completion
    await client.delete(job_id)
    with pytest.raises(NotFound):
        await client.result(job_id)


async def test_all_jobs_are_had_page_by_page(client: Any) -> None:
    ids = [await client.submit("Once") for _ in range(5)]
    seen, token = [], ""
    for _ in range(3):
        page = await client.page(None, "", 2, token)
        seen += [job.job_id for job in page.jobs]
        token = page.next_page_token
    assert (seen, token) == (ids[::-1], "")


class Told(rpc.InferenceServicer):
    """Answers with the metadata and the time that a call came with."""

    async def GetJob(self, _request: Any, context: Any) -> wire.Job:
        metadata = dict(context.invocation_metadata())
        return wire.Job(
            note=f"{metadata.get('a')} {metadata.get('b')}",
            state=1,
            ended_s=context.time_remaining() or 0.0,
        )

    async def Attach(self, _request: Any, context: Any) -> None:
        told = dict(context.invocation_metadata())["a"]
        await context.write(wire.encode_event(StreamEvent(told)))
        await asyncio.sleep(60)


@pytest.mark.parametrize("kind", [AsyncClient, Client])
async def test_deadlines_and_metadata_pass_through(kind: Any) -> None:
    server = grpc.aio.server()
    rpc.add_InferenceServicer_to_server(Told(), server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    made = kind(address, options=CallOptions(metadata=[("a", "1")]))
    client = made if kind is AsyncClient else Blocking(made)
    job = await client.get("x")
    assert (job.note, job.ended_s) == ("1 None", 0.0)
    bound = made.with_options(timeout_s=30.0, metadata=[("b", "2")])
    bound = bound if kind is AsyncClient else Blocking(bound)
    job = await bound.get("x")
    assert job.note == "1 2"
    assert 20.0 < job.ended_s < 32.0, "gRPC rounds up"
    brief = made.with_options(timeout_s=0.5)
    brief = brief if kind is AsyncClient else Blocking(brief)
    events = brief.attach("x")
    assert (await anext(events)).job_id == "1"
    with pytest.raises(TimedOut):
        await anext(events)
    await client.close()
    await server.stop(None)


async def test_patience_has_an_end(served: Served) -> None:
    await served.stop()
    async with AsyncClient(served.address, NO_PATIENCE) as client:
        with pytest.raises(Unavailable):
            await client.models()
        with pytest.raises(Unavailable):
            async for _ in client.attach("job"):
                pass
    with Client(served.address, NO_PATIENCE) as blocking, pytest.raises(Unavailable):
        await asyncio.to_thread(blocking.models)


async def test_the_other_replica_is_found(served: Served) -> None:
    async with AsyncClient(f"localhost:1, {served.address}") as client:
        assert len(await client.models()) == 1


async def test_replicas_may_have_ipv6_addresses(served: Served) -> None:
    await served.stop()
    await served.start("::1")
    for target in (served.address, f"[::1]:1, {served.address}"):
        async with AsyncClient(target) as client:
            assert len(await client.models()) == 1


async def test_a_stream_that_is_left_is_closed_at_the_service(served: Served, client: Any) -> None:
    async def ended() -> bool:
        job = await served.queue.job(job_id)
        return job is not None and job.state == "ended"

    events = client.generate("Once", cancel_on_disconnect=True)
    job_id = (await anext(events)).job_id
    if isinstance(client, AsyncClient):
        await events.aclose()
    else:
        await client.close()
    await served.until(ended)
