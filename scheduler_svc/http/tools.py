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
    choice = body.get("tool_choice")
    is_forced = choice not in (None, "auto", "none")
    for at, (tool, given) in enumerate(zip(tools, _array(body), strict=True)):
        if not is_forced and _is_strict(given):
            problem = "is not supported here unless tool_choice forces a call"
            path = f"tools[{at}].function.strict"
            raise invalid(
                path, f"{problem}: of {tool['function']['name'][:50]!r}", "unsupported_parameter"
            )
    return [] if choice == "none" else tools


def forced_of(body: Mapping[str, Any], tools: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the tools of which one has to be called; none where the model may choose.

    Raises ApiError where there is no such tool.
    """
    choice = body.get("tool_choice")
    if choice in (None, "auto", "none"):
        return []
    if not tools:
        raise invalid("tool_choice", "needs tools")
    if choice == "required":
        return list(tools)
    name = _named(choice)
    named = [tool for tool in tools if tool["function"]["name"] == name]
    if not named:
        raise invalid("tool_choice", f"there is no tool called {name[:100]!r}")
    return named


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


def _is_strict(tool: Mapping[str, Any]) -> bool:
    return bool((mapping(tool, "function") if "function" in tool else tool).get("strict"))


def _named(choice: Any) -> str:
    """Return the function that a choice names: in an object of its own, or beside its type."""
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind != "function":
        message = "tool_choice: 'auto', 'none', 'required' and a function are supported here"
        raise ApiError(400, message, param="tool_choice", code="unsupported_parameter")
    return text(mapping(choice, "function") if "function" in choice else choice, "name")
