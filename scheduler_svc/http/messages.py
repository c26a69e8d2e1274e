"""A chat's messages, as clients send them, to what chat templates know."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from scheduler_svc.http.errors import invalid
from scheduler_svc.http.values import array, mapping, text, wrong_type
from stepserve.protocol.inference import MAX_MESSAGES

MAX_ROLE_CHARS = 64
MAX_TOOL_CALLS = 128
_TEXT_PARTS = ("text", "input_text", "output_text")
# DeepSeek's name, which templates know, and vLLM's, which its own clients read.
REASONING_NAMES = ("reasoning_content", "reasoning")
_KEPT = ("name", "tool_call_id", *REASONING_NAMES)
_KNOWN = frozenset(("role", "content", "tool_calls", *_KEPT))
# OpenAI's system messages are called so with newer models; templates know the older name.
_ROLES = {"developer": "system"}


def messages_of(body: Mapping[str, Any], name: str = "messages") -> list[dict[str, Any]]:
    """Return the messages, of text only. Raises ApiError naming the one that is wrong."""
    messages = array(body, name, MAX_MESSAGES)
    if not messages:
        raise invalid(name, "is empty; one message at least is needed")
    return [message_of(each, f"{name}[{at}]") for at, each in enumerate(messages)]


def message_of(message: Any, path: str) -> dict[str, Any]:
    """Return one message."""
    if not isinstance(message, dict):
        raise wrong_type(path, "an object", message)
    for key, value in message.items():
        # An answer's message may come back as it was told, with what it did not have.
        if key not in _KNOWN and value not in (None, [], {}, ""):
            raise invalid(f"{path}.{key[:100]}", "is not supported here", "unsupported_parameter")
    role = text(message, "role")
    if not 1 <= len(role) <= MAX_ROLE_CHARS:
        raise invalid(f"{path}.role", f"must have 1 to {MAX_ROLE_CHARS} characters")
    found: dict[str, Any] = {"role": _ROLES.get(role, role)}
    found["content"] = content_of(message.get("content"), f"{path}.content")
    for key in _KEPT:
        if message.get(key) is not None:
            found[key] = text(message, key)
    for name, other in (REASONING_NAMES, REASONING_NAMES[::-1]):
        if found.get(other):
            found.setdefault(name, found[other])
    if message.get("tool_calls"):
        calls = array(message, "tool_calls", MAX_TOOL_CALLS)
        found["tool_calls"] = [
            tool_call_of(call, f"{path}.tool_calls[{at}]") for at, call in enumerate(calls)
        ]
    return found


def content_of(content: Any, path: str) -> str:
    """Return a message's text, its parts joined by new lines; nothing where there is none."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise wrong_type(path, "a string or an array of parts", content)
    texts = []
    for at, part in enumerate(content):
        if not isinstance(part, dict):
            raise wrong_type(f"{path}[{at}]", "an object", part)
        kind = text(part, "type")
        if kind not in _TEXT_PARTS:
            problem = f"parts of type {kind[:50]!r} are not supported here, only text"
            raise invalid(f"{path}[{at}].type", problem, "unsupported_parameter")
        texts.append(text(part, "text"))
    return "\n".join(texts)


def tool_call_of(call: Any, path: str) -> dict[str, Any]:
    """Return a call that was made before; templates take its arguments as an object."""
    if not isinstance(call, dict):
        raise wrong_type(path, "an object", call)
    function = mapping(call, "function")
    return called(text(function, "name"), text(function, "arguments"), text(call, "id"), path)


def called(name: str, arguments: str, call_id: str, path: str) -> dict[str, Any]:
    """Return a call as templates know it."""
    if not name:
        raise invalid(f"{path}.function.name", "is empty")
    try:
        read = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        raise invalid(f"{path}.function.arguments", "is no JSON") from None
    function = {"name": name, "arguments": read}
    return {"id": call_id, "type": "function", "function": function}
