"""Requests of programs that measure, as they send them, and answers as strictly as they read them.

Of vLLM 0.33.0 (`vllm bench serve`), guidellm 0.8.1 and lm_eval 0.4.13.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from scheduler_svc.text.chat import ChatTemplate
from scheduler_svc.text.model_card import ModelCard
from stepserve.protocol.job import Finish
from stepserve.protocol.prompt_logprobs import PromptLogprobs
from stepserve.protocol.step import TokenLogprobs
from tests.scheduler_svc.http.served import HttpServed, http_serving
from tests.scheduler_svc.http.test_chat import TEMPLATE

SAID = "a small dog"
AT_END = {"stream": True, "stream_options": {"include_usage": True}}
ALWAYS = {
    "stream": True,
    "stream_options": {"include_usage": True, "continuous_usage_stats": True},
}
PARTS = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]


@pytest.fixture
async def thinker(redis_url: str, card: ModelCard) -> AsyncIterator[HttpServed]:
    """A model that may think, which both speak of in fields of their own."""
    template = ChatTemplate(TEMPLATE, {})
    named = replace(card, name=f"qwen-{uuid4().hex[:8]}", chat_template=template, max_context=4096)
    async with http_serving(redis_url, named) as served:
        yield served


async def answered(served: HttpServed, path: str, body: dict[str, Any], said: str = SAID) -> str:
    """Return the answer to a request, of a job that says ``said`` one token a step."""
    asked = asyncio.create_task(served.post(path, {"model": served.card.name, **body}))
    await served.say(said, "length")
    answer = await asked
    assert answer.status_code == 200, answer.text
    return answer.text


def bench_serve_events(text: str) -> Iterator[dict[str, Any]]:
    """Read completions and chats as `vllm bench serve`: all of an event is its data."""
    for message in text.split("\n\n"):
        chunk = message.strip().removeprefix("data: ")
        if chunk and not chunk.startswith(":") and chunk != "[DONE]":
            yield json.loads(chunk)


def data_lines(text: str) -> Iterator[dict[str, Any]]:
    """Read a stream as guidellm, and as `vllm bench serve` does with responses: lines of data."""
    for line in text.split("\n"):
        data = line.removeprefix("data:").strip()
        if line.startswith("data:") and data != "[DONE]":
            yield json.loads(data)


async def test_bench_serve_reads_a_completion(served: HttpServed) -> None:
    body = {"prompt": "x", "repetition_penalty": 1.0, "max_tokens": 11, "logprobs": None}
    text = await answered(served, "/v1/completions", {**body, **AT_END, "ignore_eos": True})
    *told, last = bench_serve_events(text)
    assert "".join(each["choices"][0]["text"] for each in told) == SAID
    assert not last["choices"]
    assert last["usage"]["completion_tokens"] == len(served.ids(SAID))
    assert last["usage"]["prompt_tokens"] == 1 + len(served.ids("x"))  # the one that begins it


async def test_bench_serve_reads_a_chat_that_thinks(thinker: HttpServed) -> None:
    """To it ``content`` and ``reasoning`` alone are output, the first of them the first token."""
    body = {"messages": PARTS, "max_completion_tokens": 20, **AT_END, "ignore_eos": True}
    text = await answered(thinker, "/v1/chat/completions", body, f"<think>so</think>{SAID}")
    *told, last = bench_serve_events(text)
    deltas = [each["choices"][0]["delta"] for each in told]
    assert "".join(delta.get("reasoning") or "" for delta in deltas) == "so"
    assert "".join(delta.get("content") or "" for delta in deltas) == SAID
    assert last["usage"]["completion_tokens"] == len(thinker.ids(f"<think>so</think>{SAID}"))


@pytest.mark.parametrize("said", [SAID, f"<think>{SAID}"])
async def test_bench_serve_reads_a_response(thinker: HttpServed, said: str) -> None:
    body = {"input": "Hi", "max_output_tokens": 11, "stream": True, "store": False}
    events = list(data_lines(await answered(thinker, "/v1/responses", body, said)))
    deltas = [
        each["delta"]
        for each in events
        if each["type"] in ("response.output_text.delta", "response.reasoning_text.delta")
    ]
    assert "".join(deltas) == SAID
    assert events[-1]["type"] in ("response.completed", "response.incomplete")
    assert events[-1]["response"]["usage"]["output_tokens"] == len(thinker.ids(said))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "x", "max_tokens": 11}),
        ("/v1/chat/completions", {"messages": PARTS, "max_completion_tokens": 11}),
    ],
)
async def test_guidellm_reads_usage_in_every_chunk(
    thinker: HttpServed, path: str, body: dict[str, Any]
) -> None:
    text = await answered(thinker, path, {**body, **ALWAYS, "stop": None, "ignore_eos": True})
    chunks = list(data_lines(text))
    counts = [each["usage"]["completion_tokens"] for each in chunks]
    assert counts == sorted(counts)
    assert counts[-1] == len(thinker.ids(SAID))
    assert chunks[0]["id"]


async def test_guidellm_finds_the_model(served: HttpServed) -> None:
    models = (await served.http.get("/v1/models")).json()
    assert [each["id"] for each in models["data"]] == [served.card.name]


async def test_lm_eval_reads_generations_of_token_ids(served: HttpServed) -> None:
    """Several prompts in one request, each answered at its index."""
    body = {
        "prompt": [served.ids("x"), served.ids("y")],
        "max_tokens": 20,
        "temperature": 0,
        "stop": ["Question:", "</s>", "<|im_end|>"],
        "seed": 1234,
    }
    asked = asyncio.create_task(served.post("/v1/completions", body))
    jobs = [await served.lane.claim(), await served.lane.claim()]
    of_prompt = {tuple(served.ids("x")): "one", tuple(served.ids("y")): "two"}
    for job in jobs:
        await served.say_in(job, of_prompt[tuple(job.spec.prompt_token_ids)])
    choices = (await asked).json()["choices"]
    assert {each["index"]: each["text"] for each in choices} == {0: "one", 1: "two"}


def lm_eval_likelihoods(answer: dict[str, Any], ctxlens: list[int]) -> list[tuple[float, bool]]:
    """Read an answer as lm_eval: of each prompt what follows its context, without what was made.

    The sum of the log-probabilities, and whether each token was the likeliest in its place.
    """
    found = []
    choices = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
    for choice, ctxlen in zip(choices, ctxlens, strict=True):
        told = choice["logprobs"]
        own, top = told["token_logprobs"][ctxlen:-1], told["top_logprobs"][ctxlen:-1]
        tokens = told["tokens"][ctxlen:-1]
        is_greedy = all(max(each.values()) == value for each, value in zip(top, own, strict=True))
        assert is_greedy == all(
            max(each.values()) == each[token] for each, token in zip(top, tokens, strict=True)
        )
        found.append((sum(own), is_greedy))
    return found


async def test_lm_eval_reads_likelihoods_of_token_ids(served: HttpServed) -> None:
    """Two continuations of one context: the first is what the model would say, the other not."""
    context, (likely,) = served.ids("Once"), served.ids("z")
    prompts = {tuple(context + served.ids(said)): said for said in ("zz", "ab 日")}
    body = {
        "prompt": [list(each) for each in prompts],
        "temperature": 0,
        "max_tokens": 1,
        "logprobs": 1,
        "seed": 1234,
        "echo": True,
    }
    asked = asyncio.create_task(served.post("/v1/completions", body))
    for _ in prompts:
        job = await served.lane.claim()
        own = [-0.1 if i == likely else -3.3 for i in job.spec.prompt_token_ids[1:]]
        scores = PromptLogprobs.of(own, [likely] * len(own), [-0.1] * len(own))
        said = TokenLogprobs(-0.2, ((likely, -0.2),), scores)
        await served.lane.commit(job.spec.job_id, [likely], logprobs=[said])
        await served.lane.commit(job.spec.job_id, [], Finish("length"))
    answer = (await asked).json()
    (same, is_same_greedy), (other, is_other_greedy) = lm_eval_likelihoods(
        answer, [len(context)] * 2
    )
    assert (is_same_greedy, is_other_greedy) == (True, False)
    assert same == pytest.approx(2 * -0.1)
    assert other == pytest.approx(len(served.ids("ab 日")) * -3.3)
    assert [each["logprobs"]["token_logprobs"][0] for each in answer["choices"]] == [None, None]
