"""How many tokens it took, in OpenAI's form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scheduler_svc.http.errors import invalid
from scheduler_svc.http.values import boolean, mapping
from stepserve.protocol.inference import Usage


def usage_of(usage: Usage) -> dict[str, Any]:
    """Return it as completions and chats have it."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def added(one: Usage, other: Usage) -> Usage:
    """Return both together."""
    return Usage(
        one.prompt_tokens + other.prompt_tokens, one.completion_tokens + other.completion_tokens
    )


def includes_usage(body: Mapping[str, Any]) -> bool:
    """Whether a stream is to end with the usage. Raises ApiError."""
    options = mapping(body, "stream_options")
    if options and not boolean(body, "stream"):
        raise invalid("stream_options", "is of streams only")
    if boolean(options, "continuous_usage_stats"):
        raise invalid("stream_options.continuous_usage_stats", "is not supported here")
    return boolean(options, "include_usage")
