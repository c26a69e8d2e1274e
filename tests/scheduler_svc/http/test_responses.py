"""Responses: whole, streamed, in the background, from any replica, from any event on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import openai
import pytest

from scheduler_svc.text.chat import ChatTemplate
from scheduler_svc.text.model_card import ModelCard
from stepserve.protocol.errors import Unavailable
from stepserve.protocol.job import Finish
from stepserve.protocol.sampling import SamplingParams
from tests.scheduler_svc.http.served import HttpServed, events_of, http_serving
from tests.scheduler_svc.http.test_chat import CALL, TEMPLATE

TOOL = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}
SAID = "Iaskeveryonewhatitislikethere."
TEXT = f"<think>so</think>{SAID} {CALL}"


@pytest.fixture
async def qwen(redis_url: str, card: ModelCard) -> AsyncIterator[HttpServed]:
    like_qwen = replace(
        card,
        name=f"qwen-{uuid4().hex[:8]}",
        chat_template=ChatTemplate(TEMPLATE, {}),
        max_context=4096,
    )
    async with http_serving(redis_url, like_qwen) as served:
        yield served


async def made(served: HttpServed, text: str = TEXT, **body: Any) -> dict[str, Any]:
    """Return a whole response."""
    asked = asyncio.create_task(served.post("/v1/responses", {"input": "Hi", **body}))
    await served.say(text, chunk=4)
    answer = await asked
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def test_openais_client_reads_a_response(qwen: HttpServed) -> None:
    async with qwen.openai() as client:
        asked = asyncio.create_task(
            client.responses.create(
                model=qwen.card.name, input="Hi", tools=[TOOL], metadata={"of": "me"}
            )
        )
        job = await qwen.say(TEXT, chunk=3)
        answer = await asked
        assert answer.status == "completed"
        assert answer.output_text == SAID
        assert [item.type for item in answer.output] == ["reasoning", "message", "function_call"]
        assert json.loads(answer.output[2].arguments) == {"place": "Bonn", "days": [1, 2]}
        assert answer.metadata == {"of": "me"}
        assert answer.usage is not None
        assert answer.usage.input_tokens == len(job.spec.prompt_token_ids)
        again = await client.responses.retrieve(answer.id)
        assert again.model_dump() == answer.model_dump()


async def test_what_is_left_out_is_told_as_the_models_own(redis_url: str, card: ModelCard) -> None:
    makers = SamplingParams(temperature=0.6, top_p=0.95)
    chatting = replace(
        card,
        name=f"own-{uuid4().hex[:8]}",
        chat_template=ChatTemplate(TEMPLATE, {}),
        max_context=4096,
        sampling_defaults=makers,
    )
    async with http_serving(redis_url, chatting) as served:
        answer = await made(served)
        assert (answer["temperature"], answer["top_p"]) == (0.6, 0.95)
        answer = await made(served, temperature=0, top_p=0.5)
        assert (answer["temperature"], answer["top_p"]) == (0, 0.5)


async def test_what_goes_wrong_with_a_stored_one_is_not_to_be_asked_again(
    qwen: HttpServed, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(_job_id: str) -> None:
        raise Unavailable("Redis does not answer")

    asked = asyncio.create_task(qwen.post("/v1/responses", {"input": "Hi"}))
    job = await qwen.lane.claim()
    monkeypatch.setattr(qwen.front_end, "get", away)
    await qwen.say_in(job, "yes")
    answer = await asked
    assert answer.status_code == 503
    assert answer.headers["x-should-retry"] == "false"


async def test_a_background_response_is_followed_with_the_connection_cut_ten_times(
    qwen: HttpServed,
) -> None:
    async with qwen.openai() as client:
        made = await client.responses.create(
            model=qwen.card.name, input="Hi", background=True, tools=[TOOL]
        )
        assert made.status == "queued"
        job, ids = await qwen.lane.claim(), qwen.ids(TEXT)
        events: list[Any] = []

        async def follow(until: str) -> None:
            """Go on after what was read, as far as an event of a kind; then cut it off."""
            after = {"starting_after": events[-1].sequence_number} if events else {}
            stream = await client.responses.retrieve(made.id, stream=True, **after)
            async for event in stream:
                events.append(event)
                if event.type.endswith(until):
                    break
            await stream.close()

        # What is between two cuts has a text to tell: an event of it comes each time.
        start = len(qwen.ids("<think>so</think>"))
        await qwen.lane.commit(job.spec.job_id, ids[:start])
        for token_id in ids[start : start + 10]:
            await qwen.lane.commit(job.spec.job_id, [token_id])
            await follow(".delta")
        for token_id in ids[start + 10 :]:
            await qwen.lane.commit(job.spec.job_id, [token_id])
        await qwen.lane.commit(job.spec.job_id, [], Finish("stop"))
        await follow(".completed")
        numbers = [event.sequence_number for event in events]
        assert numbers == sorted(set(numbers))
        whole = await client.responses.retrieve(made.id)
        assert events[-1].response.model_dump() == whole.model_dump()
        said = "".join(e.delta for e in events if e.type == "response.output_text.delta")
        assert said == whole.output_text == SAID
        dones = [e.item.model_dump() for e in events if e.type == "response.output_item.done"]
        assert dones == [item.model_dump() for item in whole.output]


async def test_a_stream_cut_after_any_event_goes_on_exactly_there(qwen: HttpServed) -> None:
    response = await made(qwen, tools=[TOOL])
    path = f"/v1/responses/{response['id']}?stream=true"
    whole = events_of((await qwen.http.get(path)).text)
    assert whole[0]["type"] == "response.created"
    assert whole[-1]["type"] == "response.completed"
    assert whole[-1]["response"] == response
    for at, event in enumerate(whole):
        number = str(event["sequence_number"])
        by_query = await qwen.http.get(f"{path}&starting_after={number}")
        by_header = await qwen.http.get(path, headers={"last-event-id": number})
        assert events_of(by_query.text) == events_of(by_header.text) == whole[at + 1 :]


async def test_another_replica_goes_on_with_what_the_first_one_began(
    qwen: HttpServed,
) -> None:
    answer = await qwen.post(
        "/v1/responses", {"input": "Hi", "background": True}, idempotency_key="mine"
    )
    response_id = answer.json()["id"]
    job = await qwen.lane.claim()
    ids = qwen.ids("a small dog.")
    for token_id in ids[:4]:
        await qwen.lane.commit(job.spec.job_id, [token_id])
    path = f"/v1/responses/{response_id}?stream=true"
    begun = []
    async with qwen.http.stream("GET", path) as stream:
        async for line in stream.aiter_lines():
            if line.startswith("data: "):
                begun.append(json.loads(line[6:]))
            if len([e for e in begun if e["type"].endswith(".delta")]) == 1:
                break
    await qwen.stop()
    await qwen.start()
    for token_id in ids[4:]:
        await qwen.lane.commit(job.spec.job_id, [token_id])
    await qwen.lane.commit(job.spec.job_id, [], Finish("length"))
    after = begun[-1]["sequence_number"]
    rest = events_of((await qwen.http.get(f"{path}&starting_after={after}")).text)
    deltas = [e["delta"] for e in (*begun, *rest) if e["type"].endswith("text.delta")]
    assert "".join(deltas) == "a small dog."
    assert rest[-1]["type"] == "response.incomplete"
    assert rest[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    again = await qwen.post(
        "/v1/responses", {"input": "Hi", "background": True}, idempotency_key="mine"
    )
    assert again.json()["id"] == response_id
    assert again.json()["status"] == "incomplete"


async def test_only_background_responses_are_cancelled(qwen: HttpServed) -> None:
    async with qwen.openai(max_retries=0) as client:
        made = await client.responses.create(model=qwen.card.name, input="Hi", background=True)
        cancelled = await client.responses.cancel(made.id)
        assert cancelled.status == "cancelled"
        assert (await client.responses.retrieve(made.id)).status == "cancelled"
        stream = await client.responses.retrieve(made.id, stream=True)
        assert [event.type async for event in stream][-1] == "response.cancelled"
        asked = asyncio.create_task(client.responses.create(model=qwen.card.name, input="Hi"))
        await qwen.say("yes")
        with pytest.raises(openai.BadRequestError):
            await client.responses.cancel((await asked).id)


async def test_a_client_that_goes_away_ends_its_response_unless_in_the_background(
    qwen: HttpServed,
) -> None:
    body = {"input": "Hi", "stream": True}
    asked = asyncio.create_task(qwen.post("/v1/responses", body))
    job = await qwen.lane.claim()
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)

    async def is_ended() -> bool:
        found = await qwen.queue.job(job.spec.job_id)
        return found is not None and found.state == "ended"

    await qwen.until(is_ended)
    asked = asyncio.create_task(qwen.post("/v1/responses", {**body, "background": True}))
    job = await qwen.lane.claim()
    assert not job.spec.cancel_on_disconnect
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    await qwen.say_in(job, "yes")
    assert await is_ended()


async def test_a_conversation_goes_on_from_a_response(qwen: HttpServed) -> None:
    first = await made(qwen, tools=[TOOL], instructions="be")
    result = {
        "type": "function_call_output",
        "call_id": first["output"][2]["call_id"],
        "output": "rain",
    }
    body = {"previous_response_id": first["id"], "input": [result], "instructions": "short"}
    asked = asyncio.create_task(qwen.post("/v1/responses", body))
    job = await qwen.say("fine")
    assert (await asked).json()["output"][0]["content"][0]["text"] == "fine"
    assert qwen.card.tokenizer is not None
    prompt = qwen.card.tokenizer.decode(job.spec.prompt_token_ids)
    assert prompt == (
        f"<system>short<user>Hi<assistant>{SAID}<tool_call>weather(Bonn)</tool_call><tool>rain"
    )


async def test_what_is_not_known_or_not_ones_own_is_not_found(qwen: HttpServed) -> None:
    mine = await made(qwen, "yes")
    unstored = await made(qwen, "yes", store=False)
    completion = asyncio.create_task(qwen.post("/v1/completions", {"prompt": "x"}))
    await qwen.say("yes")
    other = (await completion).json()["id"].replace("cmpl-", "resp_")
    for path in (
        f"/v1/responses/{unstored['id']}",
        f"/v1/responses/{other}",
        f"/v1/responses/resp_{'0' * 32}",
        "/v1/responses/odd",
        f"/v1/responses/{unstored['id']}?stream=true",
    ):
        answer = await qwen.http.get(path)
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "not_found"
    path = f"/v1/responses/{mine['id']}"
    assert (await qwen.http.get(path)).status_code == 200
    assert (await qwen.http.get(path, headers={"x-tenant": "another"})).status_code == 404


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"type": "computer_call"}]}, "input[0].type"),
        ({"input": "x", "background": True, "store": False}, "store"),
        ({"input": "x", "text": {"format": {"type": "grammar"}}}, "text.format.type"),
        ({"input": "x", "text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
        (
            {"input": "x", "text": {"format": {"type": "json_schema", "schema": {"type": "odd"}}}},
            "text.format",
        ),
        ({"input": "x", "reasoning": {"summary": "auto"}}, "reasoning.summary"),
        ({"input": "x", "metadata": {"a": 1}}, "metadata.a"),
        ({"input": "x", "max_output_tokens": 0}, "max_output_tokens"),
        ({"input": "x", "truncation": "auto"}, "truncation"),
    ],
)
async def test_what_is_wrong_is_named(served: HttpServed, body: dict[str, Any], param: str) -> None:
    answer = await served.post("/v1/responses", body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
