"""The JSON form of a request: what is wrong with it is named, and what is not is a value."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor

from stepserve.protocol import inference_wire as wire
from stepserve.protocol.errors import InvalidRequest
from stepserve.protocol.inference import ChatMessage, Request
from stepserve.protocol.inference_json import request_from_json
from stepserve.protocol.sampling import SamplingParams

# Around the least and the greatest number of a type.
INTEGERS = {
    FieldDescriptor.TYPE_UINT32: (-1, 0, 2**32 - 1, 2**32),
    FieldDescriptor.TYPE_UINT64: (-1, 0, 2**64 - 1, 2**64),
    FieldDescriptor.TYPE_SINT32: (-(2**31) - 1, -(2**31), 2**31 - 1, 2**31),
}


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        ([], "request: must be an object, not list"),
        ({"prompt": 3}, "prompt: must be a string, not int"),
        ({"prompt": "\ud800"}, "prompt: has half of a surrogate pair"),
        ({"promt": "a"}, "promt: there is no such field"),
        ({"messages": "hi"}, "messages: must be a list, not str"),
        ({"messages": [{"content": [1]}]}, "messages[0].content: must be a string, not list"),
        ({"prompt_token_ids": [1, -2]}, "prompt_token_ids.ids[1]: must be from 0 to 4294967295"),
        ({"prompt_token_ids": 5}, "prompt_token_ids: must be an object, not int"),
        ({"sampling": 5}, "sampling: must be an object, not int"),
        ({"sampling": {"max_token": 5}}, "sampling.max_token: there is no such field"),
        ({"sampling": {"n": "x"}}, "sampling.n: must be an integer, not str"),
        ({"sampling": {"n": True}}, "sampling.n: must be an integer, not bool"),
        ({"sampling": {"n": 1.5}}, "sampling.n: must be an integer, not float"),
        ({"sampling": {"top_p": "x"}}, "sampling.top_p: must be a number, not str"),
        ({"sampling": {"top_p": 1e39}}, "sampling.top_p: must be a finite number"),
        ({"sampling": {"stop": "x"}}, "sampling.stop: must be a list, not str"),
        ({"sampling": {"ignore_eos": 1}}, "sampling.ignore_eos: must be true or false, not int"),
        ({"sampling": {"logit_bias": {"x": 1}}}, "sampling.logit_bias[x]: must be an integer"),
        ({"sampling": {"logit_bias": [1]}}, "sampling.logit_bias: must be an object, not list"),
        ({"priority": 2**31}, "priority: must be from -2147483648 to 2147483647"),
    ],
)
def test_a_wrong_json_request_names_its_field(payload: Any, problem: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        request_from_json(payload)
    assert str(caught.value).startswith(problem)


@pytest.mark.parametrize(
    ("payload", "request_"),
    [
        ({"prompt_token_ids": {"ids": [7]}}, Request(prompt_token_ids=[7])),
        ({"prompt_token_ids": {}}, Request(prompt_token_ids=())),
        ({"messages": [{"role": "user"}]}, Request(messages=[ChatMessage("user", "")])),
        (
            {"sampling": {"logit_bias": {"5": 1, "05": 2}, "temperature": 1, "stop": ["a"]}},
            Request(sampling=SamplingParams(logit_bias={5: 2.0}, temperature=1.0, stop=["a"])),
        ),
        (
            {"prompt": "a", "priority": "-3", "deadline_s": 2, "cancel_on_disconnect": True},
            Request("a", priority=-3, deadline_s=2.0, cancel_on_disconnect=True),
        ),
    ],
)
def test_what_a_field_may_be(payload: Any, request_: Request) -> None:
    assert request_from_json(payload) == request_


ENVELOPE = wire.SubmitRequest().DESCRIPTOR.fields
SAMPLING = wire.SubmitRequest().sampling.DESCRIPTOR.fields


def payload_of(field: FieldDescriptor, value: Any) -> Any:
    return {"sampling": {field.name: value}} if field in SAMPLING else {field.name: value}


@pytest.mark.parametrize("field", [*ENVELOPE, *SAMPLING], ids=lambda field: field.full_name)
def test_every_field_of_the_proto_can_be_given(field: FieldDescriptor) -> None:
    assert request_from_json(payload_of(field, None)) == Request()


@pytest.mark.parametrize(
    "field",
    [field for field in (*ENVELOPE, *SAMPLING) if field.type in INTEGERS and not field.is_repeated],
    ids=lambda field: field.full_name,
)
def test_an_integer_is_any_that_its_field_can_hold(field: FieldDescriptor) -> None:
    below, least, greatest, above = INTEGERS[field.type]
    for value in (least, greatest):
        wire.encode_request(request_from_json(payload_of(field, value)))
    for value in (below, above):
        with pytest.raises(
            InvalidRequest, match=f"{field.name}: must be from {least} to {greatest}"
        ):
            request_from_json(payload_of(field, value))


def test_json_takes_ids_as_a_list_null_as_absent_and_large_numbers_as_strings() -> None:
    text = (
        '{"prompt_token_ids": [1, 2], "tenant": null, "sampling": {"seed": "18446744073709551615"}}'
    )
    request = request_from_json(json.loads(text))
    asked = SamplingParams(seed=2**64 - 1)
    assert request == Request(prompt_token_ids=[1, 2], sampling=asked)
