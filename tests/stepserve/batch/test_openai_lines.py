"""OpenAI's and vLLM's lines: what is heeded, what is refused by name, and their results."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stepserve.batch import openai_lines
from stepserve.batch.figures import LineRun, failed_lines, in_words, summary
from stepserve.batch.file import parse_lines
from stepserve.batch.run import failed
from stepserve.client.completion import Completion, Output
from stepserve.protocol.errors import InvalidRequest
from stepserve.protocol.inference import ChatMessage, Request, Usage
from stepserve.protocol.sampling import SamplingParams
from stepserve.protocol.step import TokenLogprobs
from stepserve.protocol.structured import StructuredOutputs

CHAT = {"role": "user", "content": "hi"}


def chat(**body: Any) -> dict[str, Any]:
    return {
        "custom_id": "r-1",
        "method": "POST",
        "url": openai_lines.CHAT_URL,
        "body": {"model": "m", "messages": [CHAT], **body},
    }


def text(**body: Any) -> dict[str, Any]:
    return {"custom_id": "r-1", "url": openai_lines.TEXT_URL, "body": {"prompt": "a", **body}}


@pytest.mark.parametrize(
    ("payload", "request_"),
    [
        (chat(), Request(messages=[ChatMessage("user", "hi")], model="m")),
        (
            # As OpenAI's and vLLM's documents have it.
            chat(max_completion_tokens=1000, stop="x", logit_bias={"5": -1}, user="u", seed=None),
            Request(
                messages=[ChatMessage("user", "hi")],
                model="m",
                sampling=SamplingParams(max_tokens=1000, stop=["x"], logit_bias={5: -1.0}),
            ),
        ),
        (
            chat(
                top_logprobs=3, logprobs=True, top_k=-1, chat_template_kwargs={"a": 1}, priority=2
            ),
            Request(
                messages=[ChatMessage("user", "hi")],
                model="m",
                sampling=SamplingParams(logprobs=3, top_k=0),
                priority=-2,
                chat_template_kwargs={"a": 1},
            ),
        ),
        (
            chat(messages=[{"role": "developer", "content": "a"}]),
            Request(messages=[ChatMessage("system", "a")], model="m"),
        ),
        (
            chat(messages=[{"role": "user", "content": [{"type": "text", "text": "a"}] * 2}]),
            Request(messages=[ChatMessage("user", "a\na")], model="m"),
        ),
        (text(), Request("a", sampling=SamplingParams(max_tokens=16))),
        (
            text(response_format={"type": "json_schema", "json_schema": {"schema": {"b": 1}}}),
            Request(
                "a",
                sampling=SamplingParams(
                    max_tokens=16, structured_outputs=StructuredOutputs(json='{"b":1}')
                ),
            ),
        ),
        (
            text(structured_outputs={"choice": ["a"]}, min_tokens=2),
            Request(
                "a",
                sampling=SamplingParams(
                    max_tokens=16,
                    min_tokens=2,
                    structured_outputs=StructuredOutputs(choice=["a"]),
                ),
            ),
        ),
        (
            text(prompt=[1, 2], max_tokens=4, logprobs=2, stop=["x"], echo=False, stream=False),
            Request(
                prompt_token_ids=[1, 2],
                sampling=SamplingParams(max_tokens=4, logprobs=2, stop=["x"]),
            ),
        ),
    ],
)
def test_a_line_is_a_request(payload: dict[str, Any], request_: Request) -> None:
    assert openai_lines.request_of(payload) == request_


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        (chat(tools=[{"type": "function"}]), "body.tools: is not supported here"),
        (chat(response_format={"type": "odd"}), "body.response_format: must be of type text"),
        (chat(stream=True), "body.stream: is not supported"),
        (chat(top_logprobs=2), "body.top_logprobs: needs logprobs"),
        (chat(logprobs=2), "body.logprobs: must be true or false"),
        (chat(max_tokens="x"), "body.max_tokens: must be an integer"),
        (chat(nonsense=1), "body.nonsense: is not supported here"),
        (chat(messages=[{**CHAT, "tool_calls": []}]), "body.messages[0].tool_calls: is not"),
        (
            chat(messages=[{"role": "user", "content": [{"type": "image_url"}]}]),
            "body.messages[0].content[0]: only parts of type text",
        ),
        (text(prompt=["a", "b"]), "body.prompt: must be a text or a list of token ids"),
        (text(echo=True), "body.echo: is not supported here"),
        ({**chat(), "url": "/v1/embeddings"}, "url: must be /v1/chat/completions or"),
        ({**chat(), "body": 5}, "body: must be an object"),
        ({**chat(), "method": "GET"}, "method: must be POST"),
        ({**chat(), "more": 1}, "more: there is no such field"),
    ],
)
def test_what_is_not_there_is_refused_by_name(payload: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        openai_lines.request_of(payload)
    assert str(caught.value).startswith(problem)
    _, [line] = parse_lines(json.dumps(payload).encode(), "m")
    assert line.error == str(caught.value)


def test_a_result_has_openais_form() -> None:
    _, [line] = parse_lines(json.dumps(chat()).encode(), "m")
    output = Output(0, "hey", (7, 8), "stop", "", (TokenLogprobs(-0.5, ((7, -0.5),)),) * 2)
    done = Completion("job", (output,), Usage(3, 2, 1))
    result = openai_lines.result_of(line.payload, done)
    assert (result["id"], result["custom_id"], result["error"]) == ("job", "r-1", None)
    assert result["response"]["status_code"] == 200
    body = result["response"]["body"]
    assert (body["object"], body["model"]) == ("chat.completion", "m")
    told = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    assert body["usage"] == {**told, "prompt_tokens_details": {"cached_tokens": 1}}
    [choice] = body["choices"]
    assert choice["message"] == {"role": "assistant", "content": "hey"}
    assert choice["finish_reason"] == "stop"
    token = {"token": "token_id:7", "logprob": -0.5, "bytes": None}
    assert choice["logprobs"]["content"][0] == {**token, "top_logprobs": [token]}
    refused = failed(line, "NOT_FOUND", "no such model")
    assert refused["response"]["status_code"] == 404
    assert refused["error"] == {"code": "NOT_FOUND", "message": "no such model", "line": 1}


def test_a_line_of_our_own_may_have_an_id() -> None:
    _, [line] = parse_lines(b'{"prompt": "a", "custom_id": "x"}', "m")
    assert line.request is not None
    assert not line.is_openai
    assert failed(line, "UNKNOWN", "why")["custom_id"] == "x"


def test_figures_are_of_what_the_run_did_itself() -> None:
    done = {"finish_reason": "stop", "usage": {"completion_tokens": 5}}
    broken = {"finish_reason": "error", "finish_message": "it broke"}
    results = {
        0: done,  # of an earlier run
        1: done,  # its job was an earlier run's, and ended meanwhile
        2: done,
        4: {"error": {"code": "INVALID_ARGUMENT", "message": "n: must be", "line": 5}},
        5: broken,
        6: {
            "custom_id": "x",
            "error": None,
            "response": {
                "body": {"choices": [done, broken], "usage": {"completion_tokens": 7}},
            },
        },
    }
    runs = [
        LineRun(True, True, 1000, 0.0, 0.0),
        LineRun(True, False, 5, 0.5, 1.0),
        LineRun(),
        LineRun(True, False, 5, 1.5, 2.0),
        LineRun(True, False, 5, 1.5, 3.0),
    ]
    figures = summary(results, runs, 10.0)
    counts = [figures[name] for name in ("jobs", "failed", "earlier", "joined")]
    assert counts == [6, 3, 1, 1]
    assert (figures["requests_per_s"], figures["output_tokens_per_s"]) == (0.3, 1.5)
    assert figures["output_tokens"] == 3 * 5 + 7, "of all results, whoever's"
    assert (figures["ttft_s_p50"], figures["latency_s_p50"]) == (1.5, 2.0)
    assert [number for number, _ in failed_lines(results)] == [5, 6, 7]
    assert failed_lines(results)[1] == (6, "error: it broke")
    assert in_words(figures) == (
        "of 6 jobs 1 had ended in an earlier run (earlier), 1 had been submitted before and were "
        "followed to their end (joined), 4 are this run's; rates and times are of the last alone; "
        "22 output tokens in all"
    )
    assert in_words({**figures, "earlier": 0, "joined": 0}) == ""
    assert "no rates and times" in in_words({**figures, "earlier": 2, "joined": 4})
