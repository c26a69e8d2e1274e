"""The tools that a model may call, and whether it may."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scheduler_svc.http.errors import ApiError, invalid
from scheduler_svc.http.values import array, mapping, text, wrong_type

MAX_TOOLS = 128


def tools_of(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the tools that the model is told of: functions, in the form of chats.

    None where it may not call any. Raises ApiError for tools that run at OpenAI.
    """
    tools = [_function(tool, f"tools[{at}]") for at, tool in enumerate(_array(body))]
    return tools if _may_call(body.get("tool_choice")) else []


def names_of(tools: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the functions' names."""
    return tuple(tool["function"]["name"] for tool in tools)


def _array(body: Mapping[str, Any]) -> list[Any]:
    return array(body, "tools", MAX_TOOLS)


def _function(tool: Any, path: str) -> dict[str, Any]:
    if not isinstance(tool, dict):
        raise wrong_type(path, "an object", tool)
    kind = text(tool, "type")
    if kind != "function":
        problem = f"tools of type {kind[:50]!r} are not supported here, only functions"
        raise invalid(f"{path}.type", problem, "unsupported_parameter")
    # Responses have the function's fields in the tool itself.
    function = mapping(tool, "function") if "function" in tool else tool
    if function.get("strict"):
        problem = "is not supported here: arguments are as the model writes them"
        raise invalid(f"{path}.strict", problem, "unsupported_parameter")
    name = text(function, "name")
    if not name:
        raise invalid(f"{path}.function.name", "is empty")
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": text(function, "description"),
            "parameters": mapping(function, "parameters") or {"type": "object", "properties": {}},
        },
    }


def _may_call(choice: Any) -> bool:
    if choice in (None, "auto", "none"):
        return bool(choice != "none")
    message = "tool_choice: only 'auto' and 'none' are supported here; what forces a call is not"
    raise ApiError(400, message, param="tool_choice", code="unsupported_parameter")
