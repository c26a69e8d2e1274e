"""What an answer's text has to be, from the fields that OpenAI and vLLM have for it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from scheduler_svc.http.errors import ApiError, invalid
from scheduler_svc.http.tools import forced_of
from scheduler_svc.http.values import array, boolean, mapping, text, wrong_type
from scheduler_svc.text.forced_call import forced_calls, thoughtful
from scheduler_svc.text.speech import Manner
from stepserve.protocol.structured import MAX_CHOICES, StructuredOutputs

OUTPUTS, FORMAT, TEXT_FORMAT = "structured_outputs", "response_format", "text.format"
_KNOWN = frozenset(("json", "regex", "choice", "grammar", "json_object"))


def structured_of(body: Mapping[str, Any], path: str = FORMAT) -> StructuredOutputs | None:
    """Return what a request's text has to be; None where it may be any. Raises ApiError.

    ``path`` is where OpenAI has the text's format.
    """
    asked = _outputs(mapping(body, OUTPUTS)) if body.get(OUTPUTS) is not None else None
    holder, _, name = path.rpartition(".")
    given = mapping(mapping(body, holder) if holder else body, name)
    formatted = _format(given, path)
    if asked is not None and formatted is not None:
        raise invalid(OUTPUTS, f"not together with {path}")
    return asked or formatted


def answer_of(
    body: Mapping[str, Any], manner: Manner, tools: Sequence[dict[str, Any]], path: str = FORMAT
) -> StructuredOutputs | None:
    """Return what a chat's answer has to be: what was asked for, after a thought, or a call."""
    asked, forced = structured_of(body, path), forced_of(body, tools)
    if forced and asked is not None:
        raise invalid("tool_choice", f"can't force a call together with {path} or {OUTPUTS}")
    try:
        if forced:
            is_any = body.get("tool_choice") == "required"
            is_one = not (is_any and boolean(body, "parallel_tool_calls", default=True))
            return forced_calls(manner, forced, is_one)
        return asked if asked is None or asked.problem() else thoughtful(manner, asked)
    except RecursionError:
        raise invalid("tools" if forced else path, "a schema is nested too deeply") from None
    except ValueError:
        raise invalid(path, "the schema is no JSON") from None


def names_of_structure(body: Mapping[str, Any], path: str = FORMAT) -> dict[str, str]:
    """Return what the fields of what a text has to be are called in this request."""
    if body.get(OUTPUTS) is not None:
        return {}
    if body.get("tool_choice") not in (None, "auto", "none"):
        path = "tools"
    return {OUTPUTS: path, **{f"{OUTPUTS}.{kind}": path for kind in _KNOWN}}


def _format(given: Mapping[str, Any], path: str) -> StructuredOutputs | None:
    kind = text(given, "type", "text")
    if kind == "text":
        return None
    if kind == "json_object":
        return StructuredOutputs(json_object=True)
    if kind != "json_schema":
        problem = f"{kind[:50]!r} is not supported here: use text, json_object or json_schema"
        raise invalid(f"{path}.type", problem, "unsupported_parameter")
    # Responses have in the format itself what chats have in an object of its own.
    if path == FORMAT:
        given, path = mapping(given, kind), f"{path}.{kind}"
    return StructuredOutputs(json=_schema(given.get("schema"), f"{path}.schema"))


def _outputs(given: Mapping[str, Any]) -> StructuredOutputs:
    for name, value in given.items():
        if name not in _KNOWN and value not in (None, False):
            message = f"{OUTPUTS}.{name[:100]} is not supported here"
            raise ApiError(400, message, param=OUTPUTS, code="unsupported_parameter")
    schema = given.get("json")
    return StructuredOutputs(
        json="" if schema is None else _schema(schema, f"{OUTPUTS}.json"),
        regex=text(given, "regex"),
        choice=tuple(_texts(array(given, "choice", MAX_CHOICES))),
        grammar=text(given, "grammar"),
        json_object=boolean(given, "json_object"),
    )


def _texts(choices: list[Any]) -> list[str]:
    for at, each in enumerate(choices):
        if not isinstance(each, str):
            raise wrong_type(f"{OUTPUTS}.choice[{at}]", "a string", each)
    return choices


def _schema(schema: Any, path: str) -> str:
    """Return a schema as text: as it was given, its properties in their order."""
    if isinstance(schema, str):
        return schema
    if not isinstance(schema, dict | bool):
        raise wrong_type(path, "an object", schema)
    try:
        return json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
    except RecursionError:
        raise invalid(path, "is nested too deeply") from None
