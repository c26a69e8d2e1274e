"""How many tokens it took, in OpenAI's form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scheduler_svc.frontend.front_end import FrontEnd
from scheduler_svc.http.errors import invalid
from scheduler_svc.http.values import boolean, mapping
from stepserve.protocol.inference import StreamEvent, Usage

# Of no job at all.
NO_USAGE = Usage(0, 0, 0)


def usage_of(usage: Usage) -> dict[str, Any]:
    """Return it as completions and chats have it."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def added(one: Usage, other: Usage) -> Usage:
    """Return both together; what is not known of one is not known of both."""
    known = [each.cached_tokens for each in (one, other) if each.cached_tokens is not None]
    return Usage(
        one.prompt_tokens + other.prompt_tokens,
        one.completion_tokens + other.completion_tokens,
        sum(known) if len(known) == 2 else None,
    )


@dataclass(frozen=True, slots=True)
class UsageShown:
    """Where a stream tells the usage: in a chunk of its own at the end, and in every other one."""

    at_end: bool = False
    always: bool = False

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> UsageShown:
        """Return what a request asks for. Raises ApiError."""
        options = mapping(body, "stream_options")
        if options and not boolean(body, "stream"):
            raise invalid("stream_options", "is of streams only")
        at_end = boolean(options, "include_usage")
        return cls(at_end, at_end and boolean(options, "continuous_usage_stats"))


class RunningUsage:
    """The usage of some jobs as their events come. ``prompts``: their tokens in prompts."""

    def __init__(self, shown: UsageShown, prompts: Sequence[int]) -> None:
        self.shown = shown
        self._prompt_tokens = sum(prompts)
        self._num_open = len(prompts)
        self._num_tokens: dict[tuple[int, int], int] = {}
        self._ended = NO_USAGE

    def add(self, position: int, event: StreamEvent) -> None:
        """Count an event of the job at a position."""
        self._num_tokens[position, event.index] = event.offset + len(event.token_ids)
        if event.usage is not None:
            self._num_open -= 1
            self._ended = added(self._ended, event.usage)

    def running(self) -> dict[str, Any]:
        """Return what a chunk tells of it: nothing where that is not asked for."""
        if not self.shown.always:
            return {}
        if self._num_open == 0:
            return {"usage": self.final()}
        return {"usage": usage_of(Usage(self._prompt_tokens, sum(self._num_tokens.values())))}

    def final(self) -> dict[str, Any]:
        """Return it as it is in the end."""
        return usage_of(self._ended)


async def running_usage(
    shown: UsageShown, front_end: FrontEnd, job_ids: Sequence[str]
) -> RunningUsage:
    """Return what counts these jobs' tokens."""
    if not shown.always:
        return RunningUsage(shown, ())
    return RunningUsage(
        shown, [(await front_end.get(job_id)).usage.prompt_tokens for job_id in job_ids]
    )
