"""Every field of OpenAI's and vLLM's requests: taken, or refused by name; the docs say which."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params

from scheduler_svc.http.errors import ApiError
from scheduler_svc.http.openapi import document
from scheduler_svc.http.parameters import (
    CHAT,
    COMPLETION,
    RESPONSE,
    Parameter,
    check,
)
from scheduler_svc.http.sampling import priority_of, sampling_of
from stepserve.protocol.step import TokenLogprobs
from tests.scheduler_svc.http.parameter_table import DOCUMENT, written
from tests.scheduler_svc.http.served import HttpServed

MESSAGES = [{"role": "user", "content": "Hi"}]
ROUTES: dict[str, tuple[Mapping[str, Parameter], dict[str, Any]]] = {
    "/v1/completions": (COMPLETION, {"prompt": "Hi"}),
    "/v1/chat/completions": (CHAT, {"messages": MESSAGES}),
    "/v1/responses": (RESPONSE, {"input": "Hi"}),
}
# A value of use, of each field whose default is not one.
VALUES: dict[str, Any] = {
    "temperature": 0.5, "top_p": 0.9, "seed": -7, "stop": ["x", "y"], "presence_penalty": 0.5,
    "frequency_penalty": 0.5, "logit_bias": {"5": 1}, "n": 2, "top_k": -1, "min_p": 0.1,
    "repetition_penalty": 1.1, "ignore_eos": True, "stop_token_ids": [7], "priority": 3,
    "deadline_s": 100, "return_token_ids": True, "model": None, "stream": True,
    "stream_options": None, "prompt": "Hi", "max_tokens": 5, "max_completion_tokens": 5,
    "max_output_tokens": 5, "echo": True, "add_special_tokens": False, "messages": MESSAGES,
    "top_logprobs": None, "tools": [{"type": "function", "name": "f",
    "function": {"name": "f"}}], "tool_choice": "auto", "parallel_tool_calls": False,
    "reasoning_effort": "low", "chat_template_kwargs": {"x": 1}, "include_reasoning": False,
    "add_generation_prompt": True, "continue_final_message": True, "input": "Hi",
    "instructions": "be", "previous_response_id": None, "metadata": {"of": "me"},
    "background": False, "store": False, "reasoning": {"effort": "low"},
    "text": {"format": {"type": "text"}}, "min_tokens": 2,
    "response_format": {"type": "json_object"}, "structured_outputs": {"choice": ["y", "n"]},
    "prompt_logprobs": 1,
}  # fmt: skip


def value_of(path: str, name: str) -> Any:
    if name == "logprobs":
        return path == "/v1/chat/completions" or None
    return VALUES.get(name, "a label")


async def test_what_is_used_or_accepted_is_taken(served: HttpServed) -> None:
    async def answer() -> None:
        while True:
            job = await served.lane.claim()
            asks = job.spec.sampling.logprobs >= 0
            told = (lambda _id: TokenLogprobs(-1.0, ())) if asks else None
            await served.say_in(job, "y", logprobs=told)

    answering = asyncio.create_task(answer())
    for path, (table, body) in ROUTES.items():
        for parameter in table.values():
            if parameter.kind == "refused":
                continue
            value = value_of(path, parameter.name)
            answered = await served.post(path, {**body, parameter.name: value})
            assert answered.status_code == 200, (path, parameter.name, answered.text)
    answering.cancel()
    await asyncio.gather(answering, return_exceptions=True)


@pytest.mark.parametrize("path", ROUTES)
def test_what_is_not_there_is_refused_by_name_unless_it_asks_for_nothing(path: str) -> None:
    table, _ = ROUTES[path]
    for parameter in table.values():
        if parameter.kind != "refused":
            continue
        for neutral in (None, *parameter.neutral):
            check({parameter.name: neutral}, table)
        for value in ({"much": 1}, True, 0, "much"):
            if any(type(value) is type(n) and value == n for n in parameter.neutral):
                continue
            with pytest.raises(ApiError, match="not supported") as refused:
                check({parameter.name: value}, table)
            assert refused.value.status == 400
            assert refused.value.param == parameter.name


@pytest.mark.parametrize("path", [*ROUTES, "/tokenize", "/detokenize", "/v1/batches"])
async def test_fields_that_there_are_not_are_refused_as_openai_does(
    served: HttpServed, path: str
) -> None:
    answer = await served.post(path, {"odd": 1})
    assert answer.status_code == 400
    assert answer.json()["error"] == {
        "message": "Unknown parameter: 'odd'.",
        "type": "invalid_request_error",
        "param": "odd",
        "code": "unknown_parameter",
    }


@pytest.mark.parametrize(
    ("table", "kind"),
    [
        (COMPLETION, completion_create_params.CompletionCreateParamsBase),
        (CHAT, chat_create_params.CompletionCreateParamsBase),
        (RESPONSE, response_create_params.ResponseCreateParamsBase),
    ],
)
def test_all_fields_of_openais_client_are_known(
    table: Mapping[str, Parameter], kind: type[Any]
) -> None:
    assert set(kind.__annotations__) <= set(table)


def test_the_sampling_that_is_asked_for_is_the_jobs() -> None:
    names = (
        "temperature", "top_p", "min_p", "seed", "stop_token_ids", "ignore_eos", "n",
        "presence_penalty", "frequency_penalty", "repetition_penalty", "min_tokens",
    )  # fmt: skip
    body = {name: VALUES[name] for name in (*names, "stop", "logit_bias", "top_k")}
    sampling = sampling_of(body, 5, 3)
    for name in names:
        wanted = 2**64 - 7 if name == "seed" else VALUES[name]
        assert getattr(sampling, name) == wanted
    assert (sampling.max_tokens, sampling.logprobs, sampling.top_k) == (5, 3, None)
    assert [priority_of({"priority": given}) for given in (None, 3, -10)] == [0, -3, 10]
    assert (sampling.stop, sampling.logit_bias) == (["x", "y"], {5: 1})


def test_the_document_has_the_table() -> None:
    document = DOCUMENT.read_text()
    assert document == written(document), (
        "python -m tests.scheduler_svc.http.parameter_table writes it anew"
    )


async def test_the_openapi_document_names_the_routes_and_the_fields(served: HttpServed) -> None:
    told = (await served.http.get("/openapi.json")).json()
    assert told == document()
    content = told["paths"]["/v1/completions"]["post"]["requestBody"]["content"]
    schema = content["application/json"]["schema"]
    assert set(schema["properties"]) == {n for n, p in COMPLETION.items() if p.kind != "refused"}


async def test_texts_become_tokens_and_back(served: HttpServed) -> None:
    answer = await served.post("/tokenize", {"prompt": "a dog", "return_token_strs": True})
    told = answer.json()
    assert served.card.tokenizer is not None
    assert told["tokens"] == served.card.tokenizer.encode("a dog")
    assert told["count"] == len(told["tokens"]) == len(told["token_strs"])
    bare = (await served.post("/tokenize", {"prompt": "a dog", "add_special_tokens": False})).json()
    assert bare["tokens"] == served.ids("a dog")
    back = await served.post("/detokenize", {"tokens": bare["tokens"]})
    assert back.json() == {"prompt": "a dog"}
    chat = (await served.post("/tokenize", {"messages": MESSAGES})).json()
    assert served.card.tokenizer.decode(chat["tokens"]) == "Hi"
    for wrong in ({"tokens": [10**9]}, {"tokens": [-1]}, {"tokens": ["a"]}, {"tokens": 5}):
        assert (await served.post("/detokenize", wrong)).status_code == 400
    assert (await served.post("/tokenize", {"prompt": "x", "model": "odd"})).status_code == 404


async def test_the_model_is_told(served: HttpServed) -> None:
    [model] = (await served.http.get("/v1/models")).json()["data"]
    assert model["id"] == served.card.name
    assert model["max_model_len"] == served.card.max_context
    assert (await served.http.get(f"/v1/models/{model['id']}")).json() == model
    for answer in (
        await served.http.get("/v1/models/odd"),
        await served.post("/v1/completions", {"prompt": "x", "model": "odd"}),
    ):
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "model_not_found"


async def test_how_it_stands_is_told(served: HttpServed) -> None:
    async def is_ready() -> bool:
        return (await served.http.get("/ready")).status_code == 200

    await served.until(is_ready)
    assert (await served.http.get("/health")).status_code == 200
    assert "version" in (await served.http.get("/version")).json()
