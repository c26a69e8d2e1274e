"""What tells requests with one key apart: stored with jobs, and the same whoever brings them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from stepserve.protocol import inference_wire as wire
from stepserve.protocol.inference import ChatMessage, Request
from stepserve.protocol.inference_json import request_from_json
from stepserve.protocol.request_digest import request_digest
from stepserve.protocol.sampling import SamplingParams

MESSAGES = [ChatMessage("user", "hé"), ChatMessage("assistant", "")]
SOME = SamplingParams(max_tokens=3, logit_bias={7: 1.0, 5: 2.0}, seed=1)
ALL = SamplingParams(
    max_tokens=3,
    temperature=0.7,
    top_p=0.9,
    top_k=0,
    min_p=0.0,
    seed=2**64 - 1,
    stop=["a", "é"],
    stop_token_ids=[9, 2],
    ignore_eos=False,
    presence_penalty=-0.5,
    frequency_penalty=0.5,
    repetition_penalty=1.1,
    logit_bias={7: 1.0, 5: 0.1},
    logprobs=0,
    n=2,
)
ENVELOPE: dict[str, Any] = {
    "priority": -3,
    "tenant": "t",
    "deadline_s": 2.5,
    "cancel_on_disconnect": True,
}
STORED = [
    (Request("Once"), "dfcd927670f6fe02ce31a9b05fc43c56"),
    (Request("Once", model="tiny", sampling=SOME), "e25aa19a0eae5648d3ef7e74fe211ca5"),
    (Request(prompt_token_ids=[1, 2, 70000], sampling=ALL), "098558a0e87954dc7d64ddff2e0a283b"),
    (Request(prompt_token_ids=()), "d348e4d7a096220681e7035aeaf8f9ae"),
    (Request(messages=MESSAGES), "6336f9bbd04577ddd0638c27c177f2aa"),
    (Request("a", **ENVELOPE), "788b18ccddd69b0f100bcdf30e74b0f7"),
]


@pytest.mark.parametrize(("request_", "digest"), STORED)
def test_it_stays_the_same(request_: Request, digest: str) -> None:
    """A retry after an upgrade must find its own."""
    asked = replace(request_, idempotency_key="k")
    assert request_digest(asked, "tiny") == digest
    assert request_digest(wire.decode_request(wire.encode_request(asked)), "tiny") == digest
    assert request_digest(request_, "tiny") == "", "without a key there is nothing to tell apart"


EDGES: list[tuple[dict[str, Any], dict[str, Any], Request]] = [
    ({"prompt": "a"}, {"prompt": "a"}, Request("a")),
    ({"prompt": "a", "sampling": {}}, {"prompt": "a", "sampling": {}}, Request("a")),
    (
        {"prompt_token_ids": [1, 2], "sampling": {"temperature": 1, "logit_bias": {"7": 1}}},
        {
            "prompt_token_ids": {"ids": [1, 2]},
            "sampling": {"temperature": 1.0, "logit_bias": {7: 1.0}},
        },
        Request(prompt_token_ids=(1, 2), sampling=SamplingParams(temperature=1, logit_bias={7: 1})),
    ),
    (
        {"messages": [{"role": "user", "content": "hi"}], "sampling": {"top_p": 0.1}},
        {"messages": [{"role": "user", "content": "hi"}], "sampling": {"top_p": 0.1}},
        Request(messages=[ChatMessage("user", "hi")], sampling=SamplingParams(top_p=0.1)),
    ),
]


@pytest.mark.parametrize(("payload", "fields", "request_"), EDGES)
def test_it_is_the_same_whoever_brings_the_request(
    payload: dict[str, Any], fields: dict[str, Any], request_: Request
) -> None:
    message = wire.SubmitRequest(idempotency_key="k", **fields)
    from_json = replace(request_from_json(payload), idempotency_key="k")
    brought = [from_json, wire.decode_request(message), replace(request_, idempotency_key="k")]
    assert len({request_digest(each, "tiny") for each in brought}) == 1


def test_what_is_not_set_is_another_request_than_a_default() -> None:
    left_open = Request("a", idempotency_key="k")
    zero = replace(left_open, sampling=SamplingParams(top_k=0))
    assert request_digest(left_open, "tiny") != request_digest(zero, "tiny")
    assert request_digest(left_open, "tiny") != request_digest(left_open, "other")
    assert request_digest(left_open, "tiny") == request_digest(
        replace(left_open, idempotency_key="another"), "tiny"
    )
