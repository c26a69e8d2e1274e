"""A response's input: a text, or items, to the messages that a chat template takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scheduler_svc.http.errors import invalid
from scheduler_svc.http.messages import REASONING_NAMES, called, content_of, message_of
from scheduler_svc.http.values import array, text, wrong_type
from stepserve.protocol.inference import MAX_MESSAGES

# What an item says of itself, and no template knows.
_OF_ITEMS = ("type", "id", "status", "phase")


def input_messages(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the messages of a request's input. Raises ApiError naming what is wrong."""
    given = body.get("input")
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    items = array(body, "input", MAX_MESSAGES)
    if not items:
        raise invalid("input", "is empty; a text or one item at least is needed")
    return item_messages(items)


def item_messages(items: Sequence[Any]) -> list[dict[str, Any]]:
    """Return the messages that items are; calls and reasoning belong to the answer beside them."""
    messages: list[dict[str, Any]] = []
    for at, item in enumerate(items):
        path = f"input[{at}]"
        if not isinstance(item, dict):
            raise wrong_type(path, "an object", item)
        _add(messages, item, path)
    return messages


def _add(messages: list[dict[str, Any]], item: Mapping[str, Any], path: str) -> None:
    match text(item, "type", "message"):
        case "message":
            bare = {key: value for key, value in item.items() if key not in _OF_ITEMS}
            message = message_of(bare, path)
            if message["role"] == "assistant" and _is_open(messages):
                messages[-1]["content"] = message["content"]
            else:
                messages.append(message)
        case "function_call":
            answer = _answer(messages)
            call = called(text(item, "name"), text(item, "arguments"), text(item, "call_id"), path)
            answer.setdefault("tool_calls", []).append(call)
        case "function_call_output":
            content = content_of(item.get("output"), f"{path}.output")
            call_id = text(item, "call_id")
            messages.append({"role": "tool", "tool_call_id": call_id, "content": content})
        case "reasoning":
            told = _reasoning(item, path)
            _answer(messages).update(dict.fromkeys(REASONING_NAMES, told))
        case kind:
            problem = f"items of type {kind[:50]!r} are not supported here"
            raise invalid(f"{path}.type", problem, "unsupported_parameter")


def _answer(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the assistant's message that the last items are of; a new one after all others."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": ""})
    return messages[-1]


def _is_open(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the last message is an answer of which only reasoning is there."""
    last = messages[-1] if messages else {}
    return last.get("role") == "assistant" and not last["content"] and "tool_calls" not in last


def _reasoning(item: Mapping[str, Any], path: str) -> str:
    parts = item.get("content") or []
    if not isinstance(parts, list):
        raise wrong_type(f"{path}.content", "an array", parts)
    return "\n".join(text(part, "text") for part in parts if isinstance(part, dict))
