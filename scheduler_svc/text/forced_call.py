"""An answer that has to be a call of a tool: a grammar of how this model writes one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scheduler_svc.text.speech import CALL, CALL_END, Manner
from stepserve.grammars.lark import HEADER, after_thought, body_of, json_of, literal
from stepserve.protocol.structured import StructuredOutputs

# As the templates that these models were trained with write a call.
_PLAIN = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def forced_calls(
    manner: Manner, tools: Sequence[Mapping[str, Any]], is_one: bool
) -> StructuredOutputs:
    """Return what the text has to be: calls of some of the ``tools``, or of exactly one."""
    call = json_of(
        _call_schema(tools, "parameters" if manner.calls == "bare" else "arguments"), _PLAIN
    )
    rules: tuple[str, ...] = ()
    if manner.calls == "tags":
        rules = (
            f"call: {literal(CALL + chr(10))} object {literal(chr(10) + CALL_END)}\n",
            f"object: {call}\n",
        )
        call = "call" if is_one else f"call ({literal(chr(10))} call)*"
    return StructuredOutputs(grammar=_grammar(manner, call, rules))


def thoughtful(manner: Manner, asked: StructuredOutputs) -> StructuredOutputs:
    """Return what the text has to be where the model may think before it answers."""
    if not manner.thinks or not (body := body_of(asked)):
        return asked
    return StructuredOutputs(grammar=after_thought(body, manner.begins_thinking))


def _grammar(manner: Manner, answer: str, rules: Sequence[str]) -> str:
    if manner.thinks:
        return after_thought(answer, manner.begins_thinking, rules)
    return f"{HEADER}start: {answer}\n" + "".join(rules)


def _call_schema(tools: Sequence[Mapping[str, Any]], arguments: str) -> dict[str, Any]:
    """Return the schema of a call; each tool's parameters keep their own definitions."""
    calls, definitions = [], {}
    for number, tool in enumerate(tools):
        function, home = tool["function"], f"#/$defs/tool{number}"
        definitions[f"tool{number}"] = _rooted(function["parameters"], home)
        calls.append(
            {
                "type": "object",
                "properties": {"name": {"const": function["name"]}, arguments: {"$ref": home}},
                "required": ["name", arguments],
                "additionalProperties": False,
            }
        )
    return {"anyOf": calls, "$defs": definitions}


def _rooted(schema: Any, home: str) -> Any:
    """Return a schema whose references to itself are to where it is now."""
    if isinstance(schema, list):
        return [_rooted(each, home) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: home + value[1:]
        if name == "$ref" and isinstance(value, str) and value.startswith("#")
        else _rooted(value, home)
        for name, value in schema.items()
    }
