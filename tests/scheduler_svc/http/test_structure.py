"""What an answer has to be, as OpenAI's and vLLM's clients say it: what the job is asked for."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from scheduler_svc.http.errors import ApiError
from scheduler_svc.http.structure import TEXT_FORMAT, answer_of, structured_of
from scheduler_svc.text.speech import Manner, Speech
from stepserve.grammars.compiler import Compiler
from stepserve.protocol.structured import StructuredOutputs
from tests.scheduler_svc.http.served import HttpServed

USER = [{"role": "user", "content": "Hi"}]
SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {}}, "required": ["b"]}
AS_TEXT = json.dumps(SCHEMA, separators=(",", ":"))
OUTPUTS = StructuredOutputs
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"n": {"$ref": "#/$defs/N"}},
            "required": ["n"],
            "additionalProperties": False,
            "$defs": {"N": {"type": "integer"}},
        },
    },
}
OTHER = {"type": "function", "function": {"name": "stop"}}
PLAIN = Manner(calls="tags", tools=("add", "stop"))


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ({}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, OUTPUTS(json_object=True)),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
            OUTPUTS(json=AS_TEXT),
        ),
        ({"structured_outputs": {"json": SCHEMA}}, OUTPUTS(json=AS_TEXT)),
        ({"structured_outputs": {"json": AS_TEXT}}, OUTPUTS(json=AS_TEXT)),
        ({"structured_outputs": {"json_object": True}}, OUTPUTS(json_object=True)),
        ({"structured_outputs": {"regex": "a+", "json": None}}, OUTPUTS(regex="a+")),
        ({"structured_outputs": {"choice": ["a", "b"]}}, OUTPUTS(choice=("a", "b"))),
        ({"structured_outputs": {"grammar": "g"}}, OUTPUTS(grammar="g")),
        ({"structured_outputs": {"regex": "a", "disable_fallback": False}}, OUTPUTS(regex="a")),
    ],
)
def test_every_form_is_read(body: dict[str, Any], wanted: StructuredOutputs | None) -> None:
    assert structured_of(body) == wanted


def test_a_response_has_the_schema_in_its_format() -> None:
    body = {"text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}}
    assert structured_of(body, TEXT_FORMAT) == OUTPUTS(json=AS_TEXT)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"response_format": {"type": "grammar"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"structured_outputs": {"whitespace_pattern": "x", "regex": "a"}}, "structured_outputs"),
        ({"structured_outputs": {"choice": [1]}}, "structured_outputs.choice[0]"),
        (
            {"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}},
            "structured_outputs",
        ),
    ],
)
def test_what_is_wrong_is_named(body: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as refused:
        structured_of(body)
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "(["}}, "structured_outputs.regex"),
        ({"structured_outputs": {"regex": "a"}, "ignore_eos": True}, "ignore_eos"),
        ({"structured_outputs": {"grammar": "a" * 40_000}}, "structured_outputs"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "x"}}}},
            "response_format",
        ),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens"),
        ({"guided_json": {}}, "guided_json"),
    ],
)
async def test_what_cannot_be_followed_is_refused_at_submit(
    served: HttpServed, body: dict[str, Any], param: str
) -> None:
    answer = await served.post("/v1/chat/completions", {"messages": USER, **body})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


async def test_the_job_has_what_was_asked(served: HttpServed) -> None:
    body = {"response_format": {"type": "json_object"}, "min_tokens": 2, "max_tokens": 20}
    routes = {"/v1/chat/completions": {"messages": USER}, "/v1/completions": {"prompt": "Hi"}}
    for path, prompt in routes.items():
        asked = asyncio.create_task(served.post(path, {**prompt, **body}))
        job = await served.say("{}")
        assert (await asked).status_code == 200
        assert job.spec.sampling.structured_outputs == OUTPUTS(json_object=True)
        assert job.spec.sampling.min_tokens == 2


def allows(asked: StructuredOutputs | None, text: str) -> bool:
    """Whether a text is one that may end there."""
    assert asked is not None
    matcher = Compiler.of_bytes().matcher(asked)
    return bool(matcher.consume_tokens(list(text.encode())) and matcher.is_accepting())


def call(name: str, arguments: str, key: str = "arguments") -> str:
    return f'{{"name": "{name}", "{key}": {arguments}}}'


def tagged(name: str, arguments: str) -> str:
    return f"<tool_call>\n{call(name, arguments)}\n</tool_call>"


ADD, STOP = tagged("add", '{"n": 5}'), tagged("stop", "{}")


@pytest.mark.parametrize(
    ("body", "allowed", "forbidden"),
    [
        ({"tool_choice": "required"}, [ADD, STOP, f"{ADD}\n{STOP}"], ["Hi", ""]),
        (
            {"tool_choice": "required", "parallel_tool_calls": False},
            [ADD, STOP],
            [f"{ADD}\n{STOP}", tagged("add", "{}"), tagged("odd", "{}")],
        ),
        ({"tool_choice": {"type": "function", "function": {"name": "add"}}}, [ADD], [STOP]),
        ({"tool_choice": {"type": "function", "name": "stop"}}, [STOP], [ADD]),
    ],
)
def test_a_call_that_is_forced_keeps_to_its_parameters(
    body: dict[str, Any], allowed: list[str], forbidden: list[str]
) -> None:
    asked = answer_of(body, PLAIN, [_tool(TOOL), _tool(OTHER)])
    assert [text for text in allowed if not allows(asked, text)] == []
    assert [text for text in forbidden if allows(asked, text)] == []
    speech = Speech(PLAIN)
    pieces = [*speech.feed(ADD), *speech.finish()]
    assert [(piece.kind, piece.text) for piece in pieces] == [
        ("call", "add"),
        ("arguments", '{"n": 5}'),
    ]


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    """A tool as ``tools_of`` gives it."""
    function = {"parameters": {"type": "object", "properties": {}}, **tool["function"]}
    return {"type": "function", "function": function}


def test_a_bare_call_is_an_object() -> None:
    asked = answer_of({"tool_choice": "required"}, Manner(calls="bare"), [_tool(TOOL)])
    assert allows(asked, call("add", '{"n": 5}', "parameters"))


@pytest.mark.parametrize("is_thinking", [False, True])
def test_a_model_that_thinks_thinks_first(is_thinking: bool) -> None:
    manner = Manner(thinks=True, begins_thinking=is_thinking, calls="tags", tools=("add",))
    thought = "so <b> </thin\n</think>\n\n"
    thought = thought if is_thinking else f"<think>{thought}"
    choices = {"structured_outputs": {"choice": ["yes", "no"]}}
    for body, answer in (({"tool_choice": "required"}, ADD), (choices, "yes")):
        asked = answer_of(body, manner, [_tool(TOOL)])
        assert allows(asked, thought + answer)
        assert allows(asked, answer) is not is_thinking
        assert not allows(asked, thought + "Hi")


def test_schemas_that_are_nested_too_deeply_are_a_clients_mistake() -> None:
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"items": deep}
    with pytest.raises(ApiError, match="nested too deeply"):
        structured_of({"structured_outputs": {"json": deep}})
    tool = {"type": "function", "function": {"name": "f", "parameters": deep}}
    with pytest.raises(ApiError, match="nested too deeply") as refused:
        answer_of({"tool_choice": "required"}, PLAIN, [tool])
    assert refused.value.param == "tools"


async def test_an_error_in_a_tools_parameters_names_the_tools(served: HttpServed) -> None:
    function = {"name": "f", "parameters": {"type": "odd"}}
    body = {"tools": [{"type": "function", "function": function}], "tool_choice": "required"}
    answer = await served.post("/v1/chat/completions", {"messages": USER, **body})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "tools"
