"""Chats: messages, tools, reasoning, log-probabilities; whole and streamed, by OpenAI's client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from scheduler_svc.frontend import live_card
from scheduler_svc.http.messages import REASONING_NAMES, message_of
from scheduler_svc.text.chat import ChatTemplate
from scheduler_svc.text.model_card import ModelCard
from stepserve.protocol.step import TokenLogprobs
from tests.scheduler_svc.http.served import HttpServed, events_of, http_serving

# What matters of Qwen's: how tools are told, and how the answer may begin.
TEMPLATE = (
    "{% for tool in tools or [] %}[{{ tool | tojson }}]{% endfor %}"
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}"
    "{% for call in message.tool_calls or [] %}<tool_call>{{ call.function.name }}"
    "({{ call.function.arguments.place }})</tool_call>{% endfor %}"
    "{% endfor %}{% if enable_thinking %}<think>\n{% endif %}"
    "{# answers may hold <think></think> #}"
)
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
    },
}
CALLED = '{"name": "weather", "arguments": {"place": "Bonn", "days": [1, 2]}}'
CALL = f"<tool_call>\n{CALLED}\n</tool_call>"
JSON = {"type": "json_object"}
USER = [{"role": "user", "content": "Hi"}]


@pytest.fixture
async def qwen(redis_url: str, card: ModelCard) -> AsyncIterator[HttpServed]:
    template = ChatTemplate(TEMPLATE, {})
    like_qwen = replace(
        card, name=f"qwen-{uuid4().hex[:8]}", chat_template=template, max_context=4096
    )
    async with http_serving(redis_url, like_qwen) as served:
        yield served


async def prompt_of(served: HttpServed, body: dict[str, Any]) -> str:
    """Return the prompt that a chat comes to."""
    asked = asyncio.create_task(served.post("/v1/chat/completions", body))
    job = await served.lane.claim()
    await served.say_in(job, "yes")
    answer = await asked
    assert answer.status_code == 200, answer.text
    assert served.card.tokenizer is not None
    return served.card.tokenizer.decode(job.spec.prompt_token_ids)


async def test_openais_client_reads_an_answer(qwen: HttpServed) -> None:
    async with qwen.openai() as client:
        asked = asyncio.create_task(
            client.chat.completions.create(model=qwen.card.name, messages=USER, n=2)
        )
        await qwen.say("<think>\nhmm\n</think>\n\na dog", chunk=2)
        answer = await asked
        for choice in answer.choices:
            assert choice.message.content == "a dog"
            assert choice.message.model_extra == dict.fromkeys(REASONING_NAMES, "hmm")
            assert choice.finish_reason == "stop"


async def test_openais_client_reads_a_stream_with_calls(qwen: HttpServed) -> None:
    text = f"<think>so\n</think>\n\nI ask. {CALL}\n{CALL}"
    async with qwen.openai() as client:
        stream = await _streamed(client, qwen, text)
    content = "".join(c.delta.content or "" for c in stream)
    assert content == "I ask."
    thoughts = [(c.delta.model_extra or {}).get("reasoning_content") or "" for c in stream]
    assert "".join(thoughts) == "so"
    calls: dict[int, list[str]] = {}
    for choice in stream:
        for call in choice.delta.tool_calls or ():
            name_and_arguments = calls.setdefault(call.index, ["", ""])
            name_and_arguments[0] += call.function.name or ""
            name_and_arguments[1] += call.function.arguments or ""
    assert [name for name, _ in calls.values()] == ["weather", "weather"]
    assert all(json.loads(a) == {"place": "Bonn", "days": [1, 2]} for _, a in calls.values())
    assert [c.finish_reason for c in stream if c.finish_reason] == ["tool_calls"]


async def _streamed(client: Any, served: HttpServed, text: str) -> list[Any]:
    async def read() -> list[Any]:
        chunks = await client.chat.completions.create(
            model=served.card.name, messages=USER, tools=[TOOL], stream=True
        )
        return [chunk.choices[0] async for chunk in chunks]

    reading = asyncio.create_task(read())
    await served.say(text)
    return await reading


async def test_a_call_is_answered_whole_and_its_result_asked_for(qwen: HttpServed) -> None:
    body = {"messages": USER, "tools": [TOOL]}
    asked = asyncio.create_task(qwen.post("/v1/chat/completions", body))
    await qwen.say(CALL, chunk=50)
    [choice] = (await asked).json()["choices"]
    assert choice["finish_reason"] == "tool_calls"
    message = choice["message"]
    assert message["content"] is None
    [call] = message["tool_calls"]
    assert call["function"]["name"] == "weather"
    result = {"role": "tool", "tool_call_id": call["id"], "content": "rain"}
    prompt = await prompt_of(qwen, {"messages": [*USER, message, result], "tools": [TOOL]})
    assert prompt.endswith("<user>Hi<assistant><tool_call>weather(Bonn)</tool_call><tool>rain")
    assert prompt.startswith("[{")


async def test_parallel_calls_may_be_too_many(qwen: HttpServed) -> None:
    body = {"messages": USER, "tools": [TOOL], "parallel_tool_calls": False}
    asked = asyncio.create_task(qwen.post("/v1/chat/completions", body))
    await qwen.say(CALL + CALL, chunk=50)
    [choice] = (await asked).json()["choices"]
    assert len(choice["message"]["tool_calls"]) == 1


async def test_without_tools_nothing_is_a_call(qwen: HttpServed) -> None:
    for extra in ({}, {"tools": [TOOL], "tool_choice": "none"}):
        asked = asyncio.create_task(qwen.post("/v1/chat/completions", {"messages": USER, **extra}))
        await qwen.say(CALL, chunk=50)
        [choice] = (await asked).json()["choices"]
        assert choice["message"]["content"] == CALL
        assert choice["finish_reason"] == "stop"


async def test_what_the_template_reads_reaches_it(qwen: HttpServed) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [{"role": "developer", "content": "be"}, {"role": "user", "content": parts}]
    thinking = {"chat_template_kwargs": {"enable_thinking": True}}
    assert await prompt_of(qwen, {"messages": messages}) == "<system>be<user>a\nb"
    prompt = await prompt_of(qwen, {"messages": messages, **thinking})
    assert prompt == "<system>be<user>a\nb<think>\n"
    asked = asyncio.create_task(
        qwen.post(
            "/v1/chat/completions", {"messages": USER, "include_reasoning": False, **thinking}
        )
    )
    await qwen.say("thought</think>said")
    message = (await asked).json()["choices"][0]["message"]
    assert message == {"role": "assistant", "content": "said", "refusal": None}


@pytest.mark.parametrize("name", REASONING_NAMES)
def test_thoughts_come_back_under_either_name(name: str) -> None:
    """A template knows one of them, whichever the client took them from."""
    message = message_of({"role": "assistant", "content": "said", name: "thought"}, "messages[0]")
    assert {key: message[key] for key in REASONING_NAMES} == dict.fromkeys(
        REASONING_NAMES, "thought"
    )


async def test_logprobs_are_of_every_token_also_in_a_stream(qwen: HttpServed) -> None:
    for stream in (False, True):
        body = {"messages": USER, "logprobs": True, "top_logprobs": 1, "stream": stream}
        asked = asyncio.create_task(qwen.post("/v1/chat/completions", body))
        await qwen.say("a <dog", logprobs=lambda i: TokenLogprobs(-1.5, ((i, -1.5),)))
        answer = (await asked).text
        chunks = events_of(answer)[:-1] if stream else [json.loads(answer)]
        entries = [e for c in chunks for e in c["choices"][0]["logprobs"]["content"]]
        assert bytes(b for entry in entries for b in entry["bytes"]) == b"a <dog"
        assert all(e["logprob"] == e["top_logprobs"][0]["logprob"] == -1.5 for e in entries)


async def test_a_stream_goes_on_after_the_last_event_that_was_read(qwen: HttpServed) -> None:
    body = {"messages": USER, "tools": [TOOL], "stream": True, "n": 2, "logprobs": True}
    key = {"idempotency_key": "a key"}
    asked = asyncio.create_task(qwen.post("/v1/chat/completions", body, **key))
    text = f"<think>so</think>I ask {CALL}"
    await qwen.say(text, chunk=3, logprobs=lambda _id: TokenLogprobs(-1.0, ()))
    whole = (await asked).text
    blocks = whole.split("\n\n")[:-2]
    # A stream is cut off after any of its events; nothing is missing then, and nothing twice.
    for at in range(0, len(blocks), 7):
        last_id = blocks[at].split("\n")[0].removeprefix("id: ")
        again = await qwen.post("/v1/chat/completions", body, last_event_id=last_id, **key)
        joined = "\n\n".join(blocks[: at + 1]) + "\n\n" + again.text
        assert _told(joined) == _told(whole)


def _told(text: str) -> Any:
    told: dict[int, dict[str, Any]] = {}
    for chunk in events_of(text)[:-1]:
        [choice] = chunk["choices"]
        sums = told.setdefault(choice["index"], {"content": "", "tokens": [], "arguments": ""})
        sums["content"] += choice["delta"].get("content") or ""
        sums["tokens"] += [entry["token"] for entry in choice["logprobs"]["content"]]
        for call in choice["delta"].get("tool_calls") or ():
            sums["arguments"] += call["function"]["arguments"]
        sums["reason"] = choice["finish_reason"]
    return told


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0].type",
        ),
        ({"messages": [{"role": "user", "content": "x", "odd": 1}]}, "messages[0].odd"),
        ({"messages": USER, "tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"messages": USER, "tool_choice": "required"}, "tool_choice"),
        ({"messages": USER, "tools": [TOOL], "tool_choice": {"type": "custom"}}, "tool_choice"),
        (
            {"messages": USER, "tools": [TOOL], "tool_choice": {"type": "function", "name": "x"}},
            "tool_choice",
        ),
        (
            {"messages": USER, "tools": [TOOL], "tool_choice": "required", "response_format": JSON},
            "tool_choice",
        ),
        (
            {"messages": USER, "tools": [{**TOOL, "function": {"name": "f", "strict": True}}]},
            "tools[0].function.strict",
        ),
        ({"messages": USER, "top_logprobs": 2}, "top_logprobs"),
        ({"messages": USER, "logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"messages": USER, "max_completion_tokens": 0}, "max_completion_tokens"),
        ({"messages": USER, "max_tokens": 10**6}, "max_tokens"),
        ({"messages": USER, "stream_options": {"include_usage": True}}, "stream_options"),
        ({"messages": [{"role": "user", "content": "x" * 10**6}]}, "messages"),
        *(
            (
                {"messages": USER, "chat_template_kwargs": {name: True}},
                f"chat_template_kwargs.{name}",
            )
            for name in ("chat_template", "messages", "return_assistant_tokens_mask", "self")
        ),
        ({"messages": USER, "chat_template_kwargs": {"a": "x" * 2**17}}, "chat_template_kwargs"),
    ],
)
async def test_what_is_wrong_is_named(served: HttpServed, body: dict[str, Any], param: str) -> None:
    answer = await served.post("/v1/chat/completions", body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"


async def test_a_repeat_is_answered_though_no_worker_has_room_for_it_now(
    served: HttpServed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_card, "MAX_AGE_S", 0.0)
    body = {"messages": [{"role": "user", "content": "Once upon a time"}], "max_tokens": 9}
    asked = asyncio.create_task(served.post("/v1/chat/completions", body, idempotency_key="k"))
    await served.say("dog")
    first = (await asked).json()
    assert await served.queue.acquire("worker", "test", 60_000, {"max_context": "3"})
    again = await served.post("/v1/chat/completions", body, idempotency_key="k")
    assert again.status_code == 200, again.text
    assert (again.json()["id"], again.json()["choices"]) == (first["id"], first["choices"])
    new = await served.post("/v1/chat/completions", body)
    assert new.status_code == 400
    error = new.json()["error"]
    assert (error["param"], error["code"]) == ("messages", "context_length_exceeded")
