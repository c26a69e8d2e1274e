"""The fields of a request for a response that every answer repeats."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scheduler_svc.http.errors import invalid
from scheduler_svc.http.values import array, boolean, mapping, text, wrong_type

MAX_METADATA = 16
MAX_METADATA_CHARS = 512
_CHOSEN = ("temperature", "top_p")
_LABELS = ("user", "safety_identifier", "prompt_cache_key")


def shown_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return them, defaults filled in. Raises ApiError for what is not there, or is wrong."""
    reasoning = mapping(body, "reasoning")
    for name, value in reasoning.items():
        if name != "effort" and value is not None:
            raise invalid(
                f"reasoning.{name[:50]}", "is not supported here", "unsupported_parameter"
            )
    return {
        "background": boolean(body, "background"),
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "metadata": metadata_of(body),
        "parallel_tool_calls": boolean(body, "parallel_tool_calls", default=True),
        "previous_response_id": body.get("previous_response_id"),
        "reasoning": {"effort": text(reasoning, "effort") or None, "summary": None},
        "store": boolean(body, "store", default=True),
        "text": {"format": _format(body)},
        "tool_choice": _or(body.get("tool_choice"), "auto"),
        "tools": array(body, "tools", 128),
        # Where they are left out they are the model's, which its job tells.
        **{name: body[name] for name in _CHOSEN if body.get(name) is not None},
        **{name: text(body, name) for name in _LABELS if body.get(name) is not None},
    }


def _format(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the text has to be, as it was asked for; ``structure`` looks at it."""
    settings = mapping(body, "text")
    if settings.get("verbosity") not in (None, "medium"):
        raise invalid("text.verbosity", "is not supported here", "unsupported_parameter")
    return mapping(settings, "format") or {"type": "text"}


def metadata_of(body: Mapping[str, Any]) -> dict[str, str]:
    metadata = mapping(body, "metadata")
    if len(metadata) > MAX_METADATA:
        raise invalid("metadata", f"at most {MAX_METADATA} are possible")
    for name, value in metadata.items():
        if not isinstance(value, str):
            raise wrong_type(f"metadata.{name[:50]}", "a string", value)
        if len(name) > MAX_METADATA_CHARS or len(value) > MAX_METADATA_CHARS:
            raise invalid("metadata", f"texts have at most {MAX_METADATA_CHARS} characters")
    return metadata


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
